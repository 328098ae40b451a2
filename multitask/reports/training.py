"""How a training went, from the files that it left: curves, tokens, restarts, cost."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multitask.errors import InputError
from multitask.files import read_json, read_text, remedy_for, understood
from multitask.run import Run

Curve = list[tuple[int, float]]
"""Steps and values."""

_SPREAD = ("macro", "worst")
_MOMENTS = {"start": "start", "save": "checkpoint", "end": "end"}


def read_training(run: Run) -> dict[str, Any]:
    """Read whatever the run has of a training.

    Returns:
        Short ``facts`` by name; curves of the training ``loss`` and the ``validation_loss``, and
        of ``tasks`` by measure, then task; supervised ``tokens`` by task; ``moments`` (starts,
        restarts, checkpoints, end: ``minutes`` since the first start, ``step`` and ``kind``);
        ``attempts`` of a supervised training, a sentence each; and the estimates of ``cost`` that
        the plan gives. Each is empty where nothing was recorded.

    Raises:
        InputError: A log is damaged.
    """
    events = list(read_lines(run.trainer_events))
    with understood(run.balance_log):
        tokens = tokens_by_task(run.balance_log)
    with understood(run.evaluation_log):
        tasks = _by_task(run.evaluation_log)
    with understood(run.logs):
        attempts = list(_attempts(run))
    with understood(run.trainer_events):
        return {
            "facts": _facts(events, tokens),
            "loss": _curve(events, "loss"),
            "validation_loss": _curve(events, "eval_loss"),
            "tasks": tasks,
            "tokens": tokens,
            "moments": _moments(events),
            "attempts": attempts,
            "cost": _cost(run),
        }


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a run's log; a last line that a crash cut short is left out."""
    if not path.is_file():
        return
    lines = read_text(path).splitlines()
    for place, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if place == len(lines):
                return
            record = None
        if not isinstance(record, dict):
            raise InputError("is no record of a log", where=f"{path}:{place}", fix=remedy_for(path))
        yield record


def _curve(events: list[dict[str, Any]], key: str) -> Curve:
    """A logged value by step; of a step that was repeated after a restart, the last one."""
    found = {
        event["step"]: float(event["values"][key])
        for event in events
        if key in event.get("values", {})
    }
    return sorted(found.items())


def _by_task(path: Path) -> dict[str, dict[str, Curve]]:
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for record in read_lines(path):
        for key, value in record.items():
            parts = key.split("/")
            if len(parts) == 3 and parts[0] == "eval" and parts[1] not in _SPREAD:
                found[parts[2]][parts[1]][record["step"]] = float(value)
    found.pop("rows", None)
    return {
        measure: {task: sorted(curve.items()) for task, curve in tasks.items()}
        for measure, tasks in found.items()
    }


def tokens_by_task(path: Path) -> dict[str, int]:
    """Supervised tokens that each task was trained on, from the balance log."""
    steps: dict[int, dict[str, Any]] = {record["step"]: record for record in read_lines(path)}
    total: dict[str, int] = defaultdict(int)
    for record in steps.values():
        for key, value in record.items():
            if key.startswith("train/") and key.endswith("/tokens"):
                total[key.removeprefix("train/").removesuffix("/tokens")] += int(value)
    return dict(total)


def _facts(events: list[dict[str, Any]], tokens: dict[str, int]) -> dict[str, str]:
    """Steps, duration, pace and last losses."""
    if not events:
        return {}
    starts = [i for i, event in enumerate(events) if event["event"] == "start"]
    own = events[starts[-1] :] if starts else events
    shown = {"steps": f"{events[-1]['step']:,} of {events[-1]['max_steps']:,}"}
    seconds = events[-1]["time"] - events[0]["time"]
    shown["duration"] = f"{seconds / 60:.1f} min"
    steps = own[-1]["step"] - own[0]["step"]
    if steps > 0:
        pace = (own[-1]["time"] - own[0]["time"]) / steps
        shown["pace"] = f"{pace:.2f} s a step, with evaluations and saves"
    if tokens and seconds > 0:
        shown["throughput"] = f"{sum(tokens.values()) / seconds:,.0f} supervised tokens a second"
    for key, title in (("loss", "last training loss"), ("eval_loss", "last validation loss")):
        curve = _curve(events, key)
        if curve:
            shown[title] = f"{curve[-1][1]:.3f}"
    shown["checkpoints written"] = str(sum(event["event"] == "save" for event in events))
    shown["restarts"] = str(max(0, len(starts) - 1))
    return shown


def _moments(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for event in events:
        kind = _MOMENTS.get(event["event"])
        if kind is None:
            continue
        kind = "restart" if kind == "start" and found else kind
        minutes = (event["time"] - events[0]["time"]) / 60
        found.append({"minutes": minutes, "step": int(event["step"]), "kind": kind})
    return found


def _attempts(run: Run) -> Iterator[str]:
    from multitask.training.attempts import Attempts

    if not (run.root / "attempts").is_dir():
        return
    attempts = Attempts(run)
    newest = attempts.newest()
    for number in range(1, newest.number + 1 if newest else 1):
        path = attempts.folder / f"{number}.json"
        if not path.is_file():
            continue
        begun, ruling = read_json(path), attempts.ruling(number)
        start = f"from {begun['resume']}" if begun["resume"] else "from the base model"
        end = "no end recorded" if ruling is None else f"{ruling.verdict} {ruling.message}".strip()
        yield f"attempt {number}, {start}: {end}"


def _cost(run: Run) -> list[str]:
    """The estimates of the plan, as it words them."""
    lines = read_text(run.plan).splitlines() if run.plan.is_file() else []
    return [line.removeprefix("- ") for line in lines if "(estimated)" in line]
