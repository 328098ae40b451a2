"""An evaluation against others on the same rows: paired differences, and tests of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import Any, Literal

import numpy as np

from multitask.errors import InputError, did_you_mean
from multitask.files import read_parquet
from multitask.metrics.intervals import Bools, Items, if_repeated
from multitask.metrics.paired import (
    Comparison,
    RecallChange,
    compare,
    compare_hits,
    holm,
    recall_changes,
)
from multitask.metrics.registry import Predictions
from multitask.metrics.text import matches
from multitask.run import Run
from multitask.tasks import Task

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
    columns = ["task", "id", "gold", "predicted"]
    table = read_parquet(directory / "predictions.parquet", columns=columns).to_pydict()
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
    tasks: Sequence[Task],
    own: Mapping[str, Answers],
    other: Mapping[str, Answers],
    name: str,
    *,
    method: Literal["mid-p", "exact"] = "mid-p",
    labels: bool = False,
) -> dict[str, dict[str, Any]]:
    """Compare on the rows that both have, task by task.

    Args:
        tasks: The tasks.
        own: This evaluation's answers.
        other: The opponent's.
        name: The opponent, for messages.
        method: Which of McNemar's tests.
        labels: Also compare the recall of every label of a classification.

    Returns:
        Of each task that both have: rows, the difference of each metric (own minus other) with
        its interval, rows that one alone has right, the test, and its p-value alone and by Holm
        over the tasks; with ``labels``, those whose recall differs, the greatest loss first.

    Raises:
        InputError: The two have no row in common, or rows of one id with other gold answers.
    """
    found = {}
    for task, rows in common_rows(tasks, own, other, name):
        pair = Paired.of(task, own[task.name], other[task.name], rows)
        record = _record(pair.compared(method), len(rows))
        if labels and task.kind.classes:
            record["labels"] = [_label(change) for change in pair.recall_changes()]
        found[task.name] = record
    adjusted = holm({task: record["p_value"] for task, record in found.items()})
    for task_name, record in found.items():
        record["p_holm"] = adjusted[task_name]
    return found


@dataclass(frozen=True)
class Paired:
    """The answers of two systems to the same rows of a task.

    Attributes:
        task: The task.
        gold: The right answers.
        one: The first system's.
        two: The second's.
        items: The item of every row, where rows repeat one.
    """

    task: Task
    gold: list[str]
    one: list[str | None]
    two: list[str | None]
    items: Items | None

    @classmethod
    def of(cls, task: Task, mine: Answers, theirs: Answers, rows: Sequence[Key]) -> Paired:
        """Take the answers to some rows that both have."""
        return cls(
            task,
            [mine.gold[key] for key in rows],
            [mine.predicted[key] for key in rows],
            [theirs.predicted[key] for key in rows],
            if_repeated([name for name, _ in rows]),
        )

    def right(self, side: Sequence[str | None]) -> Bools:
        """Whether each answer is right; generated texts, by exact match."""
        same = eq if self.task.kind.closed else matches
        return np.array([same(g, p) for g, p in zip(self.gold, side, strict=True)], dtype=np.bool_)

    def compared(self, method: Literal["mid-p", "exact"]) -> Comparison:
        """Differences of the metrics, and the test."""
        if self.task.kind.closed:
            return compare(*self._rows(), method=method)
        # Right or wrong by exact match, for want of labels.
        one, two = self.right(self.one), self.right(self.two)
        found = compare_hits(one, two, method=method, items=self.items)
        return Comparison({"exact_match": found.differences["accuracy"]}, found.test)

    def recall_changes(self) -> list[RecallChange]:
        """Labels whose recall differs."""
        return recall_changes(*self._rows())

    def _rows(self) -> tuple[Predictions, Predictions]:
        one, two = (
            Predictions(self.gold, side, self.task.labels, items=self.items)
            for side in (self.one, self.two)
        )
        return one, two


def _label(change: RecallChange) -> dict[str, Any]:
    return {
        "label": change.label,
        "n": change.rows,
        "right": change.first,
        "difference": change.difference.record(),
        "only_this": change.test.only_first,
        "only_other": change.test.only_second,
        "p_value": change.test.p_value,
        "p_bh": change.p_adjusted,
    }


def _record(found: Comparison, rows: int) -> dict[str, Any]:
    return {
        "n": rows,
        "differences": {name: e.record() for name, e in found.differences.items()},
        "only_this": found.test.only_first,
        "only_other": found.test.only_second,
        "test": found.test.method,
        "p_value": found.test.p_value,
    }
