"""A rented run on the terminal."""

from __future__ import annotations

from multitask.machine import protocol
from multitask.runpod.record import Record
from multitask.terminal import ProgressBar


class Terminal:
    """Shows a job's progress with a bar, and what happens as lines."""

    def __init__(self, bar: ProgressBar, record: Record) -> None:
        """Show the job of ``record``."""
        self._bar, self._record = bar, record

    def status(self, status: protocol.Status) -> None:
        """Steps, loss and cost."""
        notes = [] if status["loss"] is None else [f"loss {status['loss']:.3f}"]
        notes.append(f"${self._record.total():,.2f} of ${self._record.max_cost:,.2f}")
        if status["phase"] == "training":
            self._bar.update("training", status["step"], status["steps"] or None, "  ".join(notes))

    def event(self, event: protocol.Event) -> None:
        """One line for what matters."""
        text = line_of(event)
        if text:
            self._bar.say(text)

    def say(self, message: str) -> None:
        """A line."""
        self._bar.say(message)


def line_of(event: protocol.Event) -> str:
    """An event as a line; empty for those that the bar shows."""
    kind, step = event["kind"], event.get("step")
    if kind == "phase":
        return f"-- {event.get('phase', '?')}"
    if kind == "metrics":
        tasks = event.get("tasks", {})
        shown = "; ".join(f"{task}: {_numbers(values)}" for task, values in tasks.items())
        return f"step {step}: {shown}"
    if kind == "checkpoint":
        return f"step {step}: checkpoint saved"
    if kind == "restart":
        return f"restart {event.get('attempt', '?')} from step {step}: {event.get('message', '')}"
    if kind == "error":
        return f"error: {event.get('message', '')}"
    return ""


def _numbers(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(values.items())[:4])
