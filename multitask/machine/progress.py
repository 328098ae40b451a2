"""A training's progress, read from the files that its plugin and supervisor write."""

from __future__ import annotations

from typing import Any

from multitask.machine.journal import Journal, StateFile
from multitask.run import Run
from multitask.training.attempts import Attempts
from multitask.training.process import EventFollower

_OVER_TASKS = ("macro", "worst")


class Progress:
    """Turns what a training records into the job's events and state."""

    def __init__(self, run: Run, journal: Journal, state: StateFile) -> None:
        """Follow a run from now on."""
        self._journal, self._state = journal, state
        self._attempts = Attempts(run)
        self._events = EventFollower(run.trainer_events, self._on_event)

    def poll(self) -> None:
        """Pass on what is new."""
        self._events.poll()
        newest = self._attempts.newest()
        if newest is not None and newest.number != self._state.now.attempt:
            again = self._state.now.attempt > 0
            self._state.set(attempt=newest.number)
            if again:
                start = "the start" if newest.resume is None else newest.resume
                self._journal.add(
                    "restart",
                    attempt=newest.number,
                    step=newest.step,
                    message=f"attempt {newest.number} goes on from {start}",
                )

    def _on_event(self, event: dict[str, Any]) -> None:
        step, steps = int(event["step"]), int(event["max_steps"])
        self._state.set(step=step, steps=steps)
        if event["event"] == "log":
            self._on_numbers(event.get("values", {}), step, steps)
        if event["event"] == "checkpoint" and event.get("complete"):
            self._journal.add("checkpoint", step=step, path=f"model/checkpoint-{step}")

    def _on_numbers(self, values: dict[str, Any], step: int, steps: int) -> None:
        epoch = _number(values.get("epoch"))
        loss = _number(values.get("loss"))
        if loss is not None:
            self._state.set(loss=loss, epoch=epoch)
            self._journal.add("progress", step=step, steps=steps, epoch=epoch, loss=loss)
        tasks = task_metrics(values)
        if tasks:
            self._state.set(tasks=tasks)
            self._journal.add("metrics", step=step, tasks=tasks)


def task_metrics(values: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Metrics of each task, from the names ``eval/TASK/METRIC`` that the plugin writes."""
    tasks: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        parts = key.split("/")
        number = _number(value)
        if number is None or len(parts) != 3 or parts[0] != "eval" or parts[1] in _OVER_TASKS:
            continue
        tasks.setdefault(parts[1], {})[parts[2]] = number
    return tasks


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
