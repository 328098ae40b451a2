"""An evaluation against others on the same rows: paired differences, and tests of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.data.normal_form import normalised
from multitask.errors import InputError, did_you_mean
from multitask.metrics.comparison import Comparison, compare, holm
from multitask.run import Run
from multitask.tasks import Kind, Task

_RIGHT, _WRONG = "right", "wrong"

Key = tuple[str, str]
"""A row: its id, and which one of that id it is."""


@dataclass(frozen=True)
class Answers:
    """What a system answered to the rows of a task.

    Attributes:
        gold: The right answer of each row, by id.
        predicted: The system's.
    """

    gold: dict[Key, str]
    predicted: dict[Key, str | None]

    @classmethod
    def of(
        cls, ids: Sequence[str], gold: Sequence[str], predicted: Sequence[str | None]
    ) -> Answers:
        """Take answers in the order of the rows."""
        seen: dict[str, int] = {}
        keys = []
        for name in ids:
            seen[name] = seen.get(name, 0) + 1
            keys.append((name, str(seen[name])))
        return cls(dict(zip(keys, gold, strict=True)), dict(zip(keys, predicted, strict=True)))


def check_opponents(run: Run, names: Sequence[str], own: str) -> None:
    """Refuse opponents that are not there, before any work.

    Raises:
        InputError: A name is unknown, or the evaluation's own.
    """
    found = sorted(path.parent.name for path in run.evaluations.glob("*/predictions.parquet"))
    for name in names:
        if name == own:
            raise InputError(
                f"the evaluation {name!r} would be compared with itself",
                fix="choose another --name",
            )
        if name not in found:
            raise InputError(
                f"there is no evaluation {name!r} to compare with",
                where=run.evaluations,
                fix=did_you_mean(name, found)
                if found
                else f"evaluate it first, with --name {name}",
            )


def read_answers(directory: Path) -> dict[str, Answers]:
    """The answers of an earlier evaluation, by task."""
    import pyarrow.parquet as pq

    columns = ["task", "id", "gold", "predicted"]
    table = pq.read_table(directory / "predictions.parquet", columns=columns).to_pydict()
    by_task: dict[str, list[int]] = {}
    for i, task in enumerate(table["task"]):
        by_task.setdefault(task, []).append(i)
    return {
        task: Answers.of(*([table[name][i] for i in rows] for name in columns[1:]))
        for task, rows in by_task.items()
    }


def common_rows(
    tasks: Sequence[Task], own: Mapping[str, Answers], other: Mapping[str, Answers], name: str
) -> list[tuple[Task, list[Key]]]:
    """The rows that two systems have in common, of each task that has any; as `compare_all`."""
    found = []
    for task in tasks:
        if task.name not in own or task.name not in other:
            continue
        mine, theirs = own[task.name], other[task.name]
        rows = [key for key in mine.gold if key in theirs.gold]
        if any(mine.gold[key] != theirs.gold[key] for key in rows):
            raise InputError(
                f"the evaluation {name!r} was made on other data: gold answers differ",
                where=f"task {task.name!r}",
                fix="evaluate it again",
            )
        if rows:
            found.append((task, rows))
    if not found:
        raise InputError(
            f"the evaluation {name!r} has no row in common with this one",
            fix="compare evaluations of the same split",
        )
    return found


def compare_all(
    tasks: Sequence[Task], own: Mapping[str, Answers], other: Mapping[str, Answers], name: str
) -> dict[str, dict[str, Any]]:
    """Compare on the rows that both have, task by task.

    Args:
        tasks: The tasks.
        own: This evaluation's answers.
        other: The opponent's.
        name: The opponent, for messages.

    Returns:
        Of each task that both have: rows, the difference of each metric (own minus other) with
        its interval, rows that one alone has right, the test, and its p-value alone and by Holm
        over the tasks.

    Raises:
        InputError: The two have no row in common, or rows of one id with other gold answers.
    """
    found = {}
    for task, rows in common_rows(tasks, own, other, name):
        compared = _compared(task, own[task.name], other[task.name], rows)
        found[task.name] = _record(compared, len(rows))
    adjusted = holm({task: record["p_value"] for task, record in found.items()})
    for task_name, record in found.items():
        record["p_holm"] = adjusted[task_name]
    return found


def _compared(task: Task, mine: Answers, theirs: Answers, rows: Sequence[Key]) -> Comparison:
    gold = [mine.gold[key] for key in rows]
    one: list[str | None] = [mine.predicted[key] for key in rows]
    two: list[str | None] = [theirs.predicted[key] for key in rows]
    ids = [name for name, _ in rows]
    clusters = ids if len(set(ids)) < len(ids) else None
    if task.kind is not Kind.GENERATION:
        return compare(gold, one, two, task.labels, clusters=clusters)
    # Right or wrong by exact match, for want of labels.
    mine_right, theirs_right = (
        [_match(g, p) for g, p in zip(gold, side, strict=True)] for side in (one, two)
    )
    found = compare(
        [_RIGHT] * len(gold),
        mine_right,
        theirs_right,
        [_RIGHT, _WRONG],
        names=("accuracy",),
        clusters=clusters,
    )
    return Comparison({"exact_match": found.differences["accuracy"]}, found.test)


def _match(gold: str, predicted: str | None) -> str:
    same = predicted is not None and normalised(predicted) == normalised(gold)
    return _RIGHT if same else _WRONG


def _record(found: Comparison, rows: int) -> dict[str, Any]:
    return {
        "n": rows,
        "differences": {name: e.record() for name, e in found.differences.items()},
        "only_this": found.test.only_first,
        "only_other": found.test.only_second,
        "test": found.test.method,
        "p_value": found.test.p_value,
    }
