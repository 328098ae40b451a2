"""The files of a finished evaluation: results, predictions, calibration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.data.render import gold
from multitask.digests import write_digests
from multitask.environment import environment
from multitask.evaluation.calibrate import apply, fit
from multitask.evaluation.calibration import FILE_NAME, TaskCalibration, save
from multitask.evaluation.comparisons import Answers, common_rows, compare_all, read_answers
from multitask.evaluation.inputs import Inputs
from multitask.evaluation.models import same_model
from multitask.evaluation.parts import Purpose
from multitask.evaluation.predictions import table_of, write
from multitask.evaluation.results import Parts, baseline_answers, task_results
from multitask.evaluation.settings import Settings
from multitask.evaluation.work import Finished
from multitask.files import read_json, understood
from multitask.run import Run, write_atomic
from multitask.tasks import Task

SCHEMA_VERSION = 2
"""Of results.json: raised when a key changes its meaning or goes, not when one is added."""

ByTask = dict[str, dict[Purpose, Finished]]


@dataclass(frozen=True)
class Outcome:
    """A finished evaluation that is to be written.

    Attributes:
        run: The run.
        name: The evaluation's name.
        model: Path or Hub id.
        inputs: The rows.
        found: Everything that the model, and the baselines, answered.
        notes: What the scorer had to say.
    """

    run: Run
    name: str
    model: str
    inputs: Inputs
    found: ByTask
    notes: Sequence[str]

    @property
    def directory(self) -> Path:
        """The evaluation's folder."""
        return self.run.evaluations / self.name

    def write(
        self, settings: Settings, others: Sequence[str], about: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Compute all metrics, and write predictions, calibration and results, these last.

        Args:
            settings: What was asked for.
            others: Names of the evaluations to compare with.
            about: More keys of results.json.

        Returns:
            The content of results.json.
        """
        calibrations = self._calibrations(settings)
        tasks: dict[str, Any] = {}
        tables = []
        for task in self.inputs.tasks:
            parts, calibration = self.found[task.name], calibrations.get(task.name)
            record = task_results(task, parts, settings)
            if calibration is not None:
                record["calibration"] = apply(calibration, parts[Purpose.SCORES].predictions)
            tasks[task.name] = record
            tables.append(table_of(task, parts, calibration))
        results = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "model": self.model,
            "split": self.inputs.split,
            "limit": self.inputs.limit,
            "tasks": tasks,
            "comparisons": self._comparisons(others),
            "notes": [*self.inputs.notes, *self.notes],
            "environment": environment(),
            **about,
        }
        write(self.directory / "predictions.parquet", tables)
        self._save(list(calibrations.values()))
        text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(self.directory / "results.json", text + "\n")
        names = ("results.json", "predictions.parquet", FILE_NAME)
        written = [self.directory / name for name in names if (self.directory / name).is_file()]
        write_digests(self.directory, written)
        return results

    def _calibrations(self, settings: Settings) -> dict[str, TaskCalibration]:
        found = {}
        for task in self.inputs.tasks:
            parts: Parts = self.found[task.name]
            if Purpose.VALIDATION in parts and len(task.labels) > 1:
                free = parts.get(Purpose.CONTENT_FREE)
                found[task.name] = fit(
                    task,
                    parts[Purpose.VALIDATION].predictions,
                    free.predictions if free else (),
                    settings,
                )
        return found

    def _save(self, calibrations: Sequence[TaskCalibration]) -> None:
        """Write calibration.json, also beside the run's own model if fitted on all rows."""
        if not calibrations:
            (self.directory / FILE_NAME).unlink(missing_ok=True)
            return
        save(self.directory / FILE_NAME, calibrations)
        if same_model(self.model, self.run.model) and self.inputs.limit is None:
            save(self.run.model / FILE_NAME, calibrations)

    def _comparisons(self, others: Sequence[str]) -> dict[str, Any]:
        tasks = self.inputs.tasks
        own: dict[str, Answers] = {}
        baselines: dict[str, dict[str, Answers]] = {}
        for task in tasks:
            predictions = self.found[task.name][Purpose.SCORES].predictions
            ids, right = [p.id for p in predictions], [p.gold for p in predictions]
            own[task.name] = Answers.of(ids, right, [p.predicted for p in predictions])
            part = self.found[task.name].get(Purpose.BASELINES)
            for name, answers in baseline_answers(part).items() if part else ():
                baselines.setdefault(name, {})[task.name] = Answers.of(ids, right, answers)
        found = {}
        for name in others:
            directory = self.run.evaluations / name
            found[name] = compare_all(tasks, own, read_answers(directory), name, labels=True)
            _add_metrics(found[name], directory)
        return found | {n: compare_all(tasks, own, other, n) for n, other in baselines.items()}


def _add_metrics(compared: Mapping[str, dict[str, Any]], directory: Path) -> None:
    """The opponent's own metrics, where they are of the same rows."""
    path = directory / "results.json"
    theirs = read_json(path)
    with understood(path):
        for task, record in compared.items():
            if theirs["tasks"][task]["n"] == record["n"]:
                record["metrics"] = theirs["tasks"][task]["metrics"]


def check_rows(inputs: Inputs, run: Run, name: str) -> None:
    """Refuse an opponent that cannot be compared with, before any work.

    Raises:
        InputError: It has no row in common with these, or other gold answers.
    """
    own = {task.name: _unanswered(inputs, task) for task in inputs.tasks}
    common_rows(inputs.tasks, own, read_answers(run.evaluations / name), name)


def _unanswered(inputs: Inputs, task: Task) -> Answers:
    rows = inputs.rows[task.name]
    return Answers.of([row["id"] for row in rows], [gold(row) for row in rows], [None] * len(rows))
