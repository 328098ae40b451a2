"""What sharing one model gave and took, and what the training made the model forget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from multitask.files import read_json
from multitask.reports.verdicts import SIGNIFICANT, Opponent, opponent
from multitask.reports.words import number

SINGLE = "single-task"
"""What the single-task runs are called among the opponents."""

_FILE = "interference.json"
_GENERAL = "general"

# Labels that are named in each direction.
_MOST = 3
_BUDGETS = {
    "rows": "each row seen as often, in fewer optimizer steps",
    "steps": "as many optimizer steps, each row seen more often",
    "other": "not the same",
}


@dataclass(frozen=True)
class LabelChange:
    """A label whose recall differs.

    Attributes:
        label: The label.
        points: By how much, in points.
        rows: Its rows.
        clear: Whether it is beyond chance, by Benjamini and Hochberg over the task's labels.
    """

    label: str
    points: float
    rows: int
    clear: bool


@dataclass(frozen=True)
class Pair:
    """A task of two systems side by side.

    Attributes:
        task: The task.
        own: The headline metric of the evaluated model, in words.
        other: That of the other, on the same rows.
        opponent: The paired comparison.
        budget: How their trainings compare, in words; empty where there is nothing to say.
        lost: The labels that lose most.
        gained: The labels that gain most.
    """

    task: str
    own: str
    other: str
    opponent: Opponent
    budget: str = ""
    lost: tuple[LabelChange, ...] = ()
    gained: tuple[LabelChange, ...] = ()


@dataclass(frozen=True)
class Sharing:
    """A multi-task model against single-task models.

    Attributes:
        tasks: One entry a task.
        gain: The mean relative gain with its interval, in words; None where it has no value.
        gain_verdict: ``better``, ``worse`` or ``unclear``.
        not_compared: Tasks without a single-task run.
        notes: What the trainings differ in.
        comparisons: By task, as the comparisons of results.json.
        runs: The single-task runs, by the names of their folders.
    """

    tasks: list[Pair]
    gain: str | None
    gain_verdict: str
    not_compared: list[str]
    notes: list[str]
    comparisons: dict[str, Any]
    runs: list[str]


@dataclass(frozen=True)
class Forgetting:
    """General tasks before and after the training.

    Attributes:
        tasks: One entry a task; ``other`` is the base model.
        notes: What was left out.
        comparisons: By task, as the comparisons of results.json.
    """

    tasks: list[Pair]
    notes: list[str]
    comparisons: dict[str, Any]


def read_sharing(directory: Path, results: Mapping[str, Any]) -> tuple[Sharing | None, list[str]]:
    """The comparison with single-task runs that lies beside an evaluation, and notes on it.

    One of other weights or other data than the evaluation's is not shown, and a note says so.
    """
    record = _read(directory / _FILE)
    if record is None:
        return None, []
    if not _same(record, results):
        return None, ["compared with single-task runs before it was evaluated anew: compare again"]
    return sharing(record, results), []


def sharing(record: Mapping[str, Any], results: Mapping[str, Any]) -> Sharing:
    """What an interference.json says beside the results.json of its evaluation."""
    gain = record["relative_gain"]
    return Sharing(
        tasks=[_shared(task, found, results) for task, found in record["tasks"].items()],
        gain=None if gain is None else _percent(gain),
        gain_verdict=_verdict(gain),
        not_compared=list(record["not_compared"]),
        notes=list(record["notes"]),
        comparisons=record["tasks"],
        runs=list(dict.fromkeys(task["run"] for task in record["tasks"].values())),
    )


def _percent(gain: Mapping[str, float]) -> str:
    low, high = 100 * gain["low"], 100 * gain["high"]
    return f"{100 * gain['value']:+.1f} % ({low:+.1f} to {high:+.1f})"


def read_forgetting(
    directory: Path, results: Mapping[str, Any]
) -> tuple[Forgetting | None, list[str]]:
    """The general tasks that lie beside an evaluation, and notes on them."""
    record = _read(directory / _GENERAL / "results.json")
    if record is None:
        return None, []
    if not _same(record, results, "model"):
        return None, ["general tasks were scored with other weights: evaluate again"]
    return forgetting(record), []


def forgetting(record: Mapping[str, Any]) -> Forgetting:
    """What a results.json of general tasks says."""
    compared: dict[str, Any] = next(iter(record["comparisons"].values()), {})
    pairs = [
        _pair(task, found, record["tasks"][task]["metrics"]) for task, found in compared.items()
    ]
    return Forgetting(pairs, list(record["notes"]), compared)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    return read_json(path)


def _same(one: Mapping[str, Any], other: Mapping[str, Any], *names: str) -> bool:
    """Whether two records were made of the same weights, and of the same data if asked."""
    mine, theirs = one.get("key", {}), other.get("key", {})
    return all(mine.get(name) == theirs.get(name) for name in names or ("model", "data"))


def _verdict(gain: Mapping[str, float] | None) -> str:
    if gain is None or gain["low"] <= 0 <= gain["high"]:
        return "unclear"
    return "better" if gain["value"] > 0 else "worse"


def _pair(task: str, found: Mapping[str, Any], metrics: Mapping[str, Any]) -> Pair:
    metric = next(iter(found["differences"]))
    other = found.get("metrics", {}).get(metric)
    return Pair(
        task,
        number(metric, metrics[metric]["value"]),
        "-" if other is None else number(metric, other["value"]),
        opponent(SINGLE, found),
    )


def _shared(task: str, found: Mapping[str, Any], results: Mapping[str, Any]) -> Pair:
    pair = _pair(task, found, results["tasks"][task]["metrics"])
    return replace(
        pair,
        budget=_budget(found["budget"]),
        lost=_changes(found, -1),
        gained=_changes(found, 1),
    )


def _budget(found: Mapping[str, Any]) -> str:
    steps = [found[side]["steps"] for side in ("this", "other")]
    text = _BUDGETS[found["same"]]
    if None not in steps:
        text += f" ({steps[1]:,} steps against {steps[0]:,})"
    return text


def _changes(found: Mapping[str, Any], sign: int) -> tuple[LabelChange, ...]:
    """The labels that change most in one direction."""
    changed = [c for c in found.get("labels", ()) if sign * c["difference"]["value"] > 0]
    changed.sort(key=lambda c: -sign * c["difference"]["value"])
    return tuple(
        LabelChange(c["label"], 100 * c["difference"]["value"], c["n"], c["p_bh"] < SIGNIFICANT)
        for c in changed[:_MOST]
    )
