"""What a rehearsal's training wrote about itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from multitask.run import Run


def events(run: Run) -> Iterator[dict[str, Any]]:
    """The events of the plugin and of faults; half a line of a killed process is left out."""
    if not run.trainer_events.is_file():
        return
    with run.trainer_events.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def losses_by_step(run: Run) -> dict[int, str]:
    """The training loss of each step as it was logged; of a step trained twice, the last."""
    found: dict[int, str] = {}
    for event in events(run):
        values = event.get("values") or {}
        if event["event"] == "log" and "loss" in values:
            found[int(event["step"])] = str(values["loss"])
    return dict(sorted(found.items()))


def steps_lost(run: Run) -> list[int]:
    """For each restart, how many steps had been trained beyond where it resumed."""
    lost, reached, started = [], 0, False
    for event in events(run):
        if event["event"] == "start":
            if started:
                lost.append(max(0, reached - int(event["step"])))
            started, reached = True, int(event["step"])
        else:
            reached = max(reached, int(event["step"]))
    return lost


def evaluated(run: Run) -> set[str]:
    """Names that evaluations during the training have: tasks, and means over them."""
    names = set()
    for event in events(run):
        for key in event.get("values") or {}:
            parts = str(key).split("/")
            if len(parts) == 3 and parts[0] == "eval":
                names.add(parts[1])
    return names
