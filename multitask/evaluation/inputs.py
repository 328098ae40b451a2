"""The rows of an evaluation, and what identifies them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from multitask import __version__
from multitask.data.general import GeneralTask
from multitask.data.readers import read_rows
from multitask.data.render import Row
from multitask.evaluation.model_key import file_hash
from multitask.evaluation.settings import Settings
from multitask.files import read_json, understood
from multitask.run import Run
from multitask.tasks import Task, task_from_record

GENERAL = "general"
"""The name of the rows of general tasks, where others have a split's."""


@dataclass
class Inputs:
    """The rows of an evaluation.

    Attributes:
        run: Where they come from.
        split: The evaluated split; ``general`` of rows that are of no split.
        limit: Rows of each task, if not all.
        tasks: The tasks, in the order of the manifest.
        rows: The evaluated rows of each task.
        validation: The rows to calibrate on; none where there is no calibration.
        key: What identifies rows and settings.
        notes: What the user should know.
    """

    run: Run
    split: str
    limit: int | None
    tasks: list[Task]
    rows: dict[str, list[Row]]
    validation: dict[str, list[Row]]
    key: dict[str, str]
    notes: list[str]
    _train: dict[str, list[Row]] | None = field(default=None, repr=False)

    def train(self, task: str) -> Callable[[], Sequence[Row]]:
        """Reads the training rows of a task; they may be many, and are not always needed."""
        return partial(self._read_train, task)

    def _read_train(self, task: str) -> Sequence[Row]:
        if self._train is None:
            self._train = _by_task(read_rows(self.run.split("train")), self.tasks, None)
        return self._train[task]


def read_inputs(run: Run, split: str, limit: int | None, settings: Settings) -> Inputs:
    """Read the rows of a split, and those to calibrate on.

    Raises:
        InputError: The run has no data.
    """
    run.require(run.split(split), f"multitask build-config {run.spec} --out {run.root}")
    manifest = read_json(run.manifest)
    with understood(run.manifest):
        tasks = [task_from_record(name, record) for name, record in manifest["tasks"].items()]
    for task in tasks:
        task.chosen_metrics()  # before any work
    rows = _by_task(read_rows(run.split(split)), tasks, limit)
    validation, notes = _validation(run, split, limit, tasks, settings)
    return Inputs(
        run=run,
        split=split,
        limit=limit,
        tasks=tasks,
        rows=rows,
        validation=validation,
        key=_key(run, split, limit, settings),
        notes=notes,
    )


def general_inputs(
    run: Run, found: Sequence[GeneralTask], limit: int | None, settings: Settings
) -> Inputs:
    """The rows of general tasks, which have no validation rows and no training rows."""
    rows = {one.task.name: one.rows[:limit] for one in found}
    digests = " ".join(f"{one.task.name}:{one.digest}" for one in found)
    return Inputs(
        run=run,
        split=GENERAL,
        limit=limit,
        tasks=[one.task for one in found],
        rows=rows,
        validation={name: [] for name in rows},
        key=_asked(digests, GENERAL, limit, settings),
        notes=[
            f"{one.task.name}: {one.left_out:,} rows that repeat a training row were left out"
            for one in found
            if one.left_out
        ],
    )


def _validation(
    run: Run, split: str, limit: int | None, tasks: Sequence[Task], settings: Settings
) -> tuple[dict[str, list[Row]], list[str]]:
    nothing: dict[str, list[Row]] = {task.name: [] for task in tasks}
    if settings.calibration == "none":
        return nothing, []
    reason = ""
    if split != "test":
        reason = f"calibration is fitted on validation for the test split, not for {split}"
    elif not settings.distribution:
        reason = "calibration needs the distribution over the labels"
    elif not run.split("validation").is_file():
        reason = "the run has no validation rows"
    if reason:
        return nothing, [f"not calibrated: {reason}"]
    rows = _by_task(read_rows(run.split("validation")), tasks, limit)
    missing = [t.name for t in tasks if t.labels and not rows[t.name]]
    notes = [f"{name}: not calibrated: the run has no validation rows" for name in missing]
    if limit is not None:
        notes.append(
            f"calibrated on the first {limit} validation rows of each task alone; "
            "calibration.json is not written beside the model"
        )
    return rows, notes


def _key(run: Run, split: str, limit: int | None, settings: Settings) -> dict[str, str]:
    files = [run.manifest, run.split(split), run.split("validation"), run.split("train")]
    hashes = [file_hash(path) if path.is_file() else "" for path in files]
    return _asked(" ".join(hashes), split, limit, settings)


def _asked(data: str, split: str, limit: int | None, settings: Settings) -> dict[str, str]:
    asked: dict[str, Any] = {"split": split, "limit": limit, **settings.record()}
    return {
        "version": __version__,
        "data": hashlib.sha256(data.encode()).hexdigest(),
        **{f"setting {name!r}": json.dumps(value) for name, value in asked.items()},
    }


def _by_task(rows: Sequence[Row], tasks: Sequence[Task], limit: int | None) -> dict[str, list[Row]]:
    by_task: dict[str, list[Row]] = {task.name: [] for task in tasks}
    for row in rows:
        by_task[row["task"]].append(row)
    return {task: found[:limit] for task, found in by_task.items()}


def digests(key: Mapping[str, str]) -> dict[str, str]:
    """A key as results.json keeps it: SHA-256 of each of its values."""
    return {name: hashlib.sha256(value.encode()).hexdigest() for name, value in key.items()}
