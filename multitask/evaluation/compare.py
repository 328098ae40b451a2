"""An evaluation against others on the same rows: paired differences, and tests of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np

from multitask.data.render import gold
from multitask.errors import InputError, did_you_mean
from multitask.evaluation.requests import Inputs
from multitask.files import read_parquet
from multitask.metrics.intervals import Bools, if_repeated
from multitask.metrics.paired import (
    Comparison,
    Method,
    RecallChange,
    compare,
    compare_hits,
    holm,
    recall_changes,
)
from multitask.metrics.registry import Predictions
from multitask.metrics.text import matches
from multitask.tasks import Task

Answers = dict[tuple[str, int], tuple[str, str | None]]
"""Gold and predicted answer of the rows of a task, by id and which row of that id it is."""


def answers_of(ids: Sequence[str], gold: Sequence[str], predicted: Sequence[str | None]) -> Answers:
    """Take answers in the order of the rows."""
    seen: dict[str, int] = {}
    found: Answers = {}
    for name, right, answer in zip(ids, gold, predicted, strict=True):
        seen[name] = seen.get(name, 0) + 1
        found[name, seen[name]] = right, answer
    return found


def read_answers(directory: Path) -> dict[str, Answers]:
    """The answers of an earlier evaluation, by task."""
    columns = ["task", "id", "gold", "predicted"]
    table = read_parquet(directory / "predictions.parquet", columns=columns).to_pydict()
    by_task: dict[str, list[int]] = {}
    for i, task in enumerate(table["task"]):
        by_task.setdefault(task, []).append(i)
    return {
        task: answers_of(*([table[name][i] for i in rows] for name in columns[1:]))
        for task, rows in by_task.items()
    }


def check_opponents(inputs: Inputs, names: Sequence[str], own: str) -> None:
    """Refuse opponents that cannot be compared with, before any work.

    Raises:
        InputError: A name is unknown, or the evaluation's own; an opponent has no row in common
            with these, or other gold answers.
    """
    folder = inputs.run.evaluations
    found = sorted(path.parent.name for path in folder.glob("*/predictions.parquet"))
    for name in names:
        if name == own:
            raise InputError(
                f"the evaluation {name!r} would be compared with itself",
                fix="choose another --name",
            )
        if name not in found:
            first = f"evaluate it first, with --name {name}"
            raise InputError(
                f"there is no evaluation {name!r} to compare with",
                where=folder,
                fix=did_you_mean(name, found) if found else first,
            )
        unanswered = {
            task: answers_of([r["id"] for r in rows], list(map(gold, rows)), [None] * len(rows))
            for task, rows in inputs.rows.items()
        }
        pairs(inputs.tasks, unanswered, read_answers(folder / name), name)


@dataclass(frozen=True)
class Pair:
    """The answers of two systems to the same rows of a task."""

    task: Task
    first: Predictions
    second: Predictions

    def right(self, side: Predictions) -> Bools:
        """Whether each answer is right; generated texts, by exact match."""
        same = eq if self.task.kind.closed else matches
        answers = zip(side.gold, side.predicted, strict=True)
        return np.array([same(gold, predicted) for gold, predicted in answers], dtype=np.bool_)

    def compared(self, method: Method) -> Comparison:
        """Differences of the metrics, and the test."""
        if self.task.kind.closed:
            return compare(self.first, self.second, method=method)
        # Right or wrong by exact match, for want of labels.
        hits = self.right(self.first), self.right(self.second)
        found = compare_hits(*hits, method=method, items=self.first.items)
        return Comparison({"exact_match": found.differences["accuracy"]}, found.test)


def pairs(
    tasks: Sequence[Task], own: Mapping[str, Answers], other: Mapping[str, Answers], name: str
) -> list[Pair]:
    """The rows that two systems have in common, of each task that has any.

    Raises:
        InputError: There are none at all, or rows of one id with other gold answers.
    """
    found: list[Pair] = []
    for task in tasks:
        mine, theirs = own.get(task.name, {}), other.get(task.name, {})
        rows = [key for key in mine if key in theirs]
        right = [mine[key][0] for key in rows]
        if right != [theirs[key][0] for key in rows]:
            raise InputError(
                f"the evaluation {name!r} was made on other data: gold answers differ",
                where=f"task {task.name!r}",
                fix="evaluate it again",
            )
        if rows:
            items = if_repeated([task.kind.item(row) for row, _ in rows])
            first, second = (
                Predictions(right, [side[key][1] for key in rows], task.labels, items=items)
                for side in (mine, theirs)
            )
            found.append(Pair(task, first, second))
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
    method: Method = "mid-p",
    labels: bool = False,
) -> dict[str, dict[str, Any]]:
    """Compare on the rows that both have, task by task, by one of McNemar's tests.

    Returns:
        Of each task that both have: rows, the difference of each metric (own minus other) with
        its interval, rows that one alone has right, the test, and its p-value alone and by Holm
        over the tasks; with ``labels``, those whose recall differs, the greatest loss first.

    Raises:
        InputError: The two have no row in common, or rows of one id with other gold answers.
    """
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs(tasks, own, other, name):
        compared = pair.compared(method)
        record = found[pair.task.name] = {
            "n": len(pair.first),
            "differences": {name: one.record() for name, one in compared.differences.items()},
            "only_this": compared.test.only_first,
            "only_other": compared.test.only_second,
            "test": compared.test.method,
            "p_value": compared.test.p_value,
        }
        if labels and pair.task.kind.classes:
            record["labels"] = list(map(_label, recall_changes(pair.first, pair.second)))
    adjusted = holm({task: record["p_value"] for task, record in found.items()})
    for task_name, record in found.items():
        record["p_holm"] = adjusted[task_name]
    return found


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
