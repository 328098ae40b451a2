"""The files of a finished evaluation: results.json, predictions.parquet and calibration.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from multitask.digests import write_digests
from multitask.environment import environment
from multitask.evaluation.calibration import (
    FILE_NAME,
    TaskCalibration,
    at_threshold,
    before_and_after,
    calibrate,
    fit_contextual,
    save,
)
from multitask.evaluation.compare import Answers, answers_of, compare_all, read_answers
from multitask.evaluation.models import same_model
from multitask.evaluation.requests import Baselines, Inputs, Purpose, Settings
from multitask.evaluation.runner import TaskScores
from multitask.files import read_json, understood
from multitask.metrics.classification import accuracy, macro_f1
from multitask.metrics.intervals import Interval
from multitask.metrics.probability import rarer_label, reliability_bins, top
from multitask.metrics.registry import Predictions, compute, metrics_of, own_record
from multitask.metrics.text import off_list_rate
from multitask.run import write_atomic
from multitask.tasks import Task

SCHEMA_VERSION = 2
"""Of results.json: raised when a key changes its meaning or goes, not when one is added."""

ByPurpose = Mapping[Purpose, TaskScores]
"""All that a model answered about one task."""

# Labels of a row whose scores are kept: the highest.
_MOST_SCORES = 100


def write_results(
    directory: Path,
    model: str,
    inputs: Inputs,
    scores: Sequence[TaskScores],
    others: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    """Compute all metrics, and write predictions, calibration and results, these last.

    ``others`` are names of evaluations to compare with, ``about`` more keys of results.json; its
    ``notes`` come after those of the inputs.
    """
    answered: dict[str, dict[Purpose, TaskScores]] = {task.name: {} for task in inputs.tasks}
    for one in scores:
        answered[one.task.name][one.requests.purpose] = one
    calibrations: dict[str, TaskCalibration] = {}
    tasks, tables, notes = {}, [], list(inputs.notes)
    for task in inputs.tasks:
        found = answered[task.name]
        if Purpose.VALIDATION in found and len(task.labels) > 1:
            calibrations[task.name] = fit_calibration(found, inputs.settings.target_precision)
        calibration = calibrations.get(task.name)
        tasks[task.name] = task_results(
            task, found, inputs.settings, calibration, inputs.baselines(task)
        )
        tables.append(_table(task, found, calibration))
        chosen = {one.name for one in task.chosen_metrics()} if task.metrics else set()
        undefined = sorted(chosen - tasks[task.name]["metrics"].keys())
        if undefined:
            notes.append(f"{task.name}: these rows do not define {', '.join(undefined)}")
    results = {
        "schema_version": SCHEMA_VERSION,
        "name": directory.relative_to(inputs.run.evaluations).as_posix(),
        "model": model,
        "split": inputs.split,
        "limit": inputs.limit,
        "tasks": tasks,
        "comparisons": _comparisons(inputs, answered, others),
        "notes": [],
        "environment": environment(),
        **about,
    }
    results["notes"] = [*notes, *about["notes"]]
    _write_predictions(directory / "predictions.parquet", tables)
    (directory / FILE_NAME).unlink(missing_ok=True)
    if calibrations:
        save(directory / FILE_NAME, calibrations.values())
        if same_model(model, inputs.run.model) and inputs.limit is None:
            save(inputs.run.model / FILE_NAME, calibrations.values())
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(directory / "results.json", text + "\n")
    names = ("results.json", "predictions.parquet", FILE_NAME)
    written = [directory / name for name in names if (directory / name).is_file()]
    write_digests(directory, written)


# One task


def task_results(
    task: Task,
    found: ByPurpose,
    settings: Settings,
    calibration: TaskCalibration | None = None,
    baselines: Baselines | None = None,
) -> dict[str, Any]:
    """Everything that results.json says of a task but comparisons."""
    main, metrics = found[Purpose.SCORES], task.chosen_metrics()
    distribution = task.kind.closed and (settings.distribution or task.kind.exhaustive)
    rows = task.kind.measured(task, found, main.predictions(scored=distribution))
    measured = compute(rows, metrics)
    if not measured:  # a report needs a headline
        metrics = metrics_of(str(task.kind))
        measured = compute(rows, metrics)
    dropped = main.scores.dropped
    record: dict[str, Any] = {
        "kind": str(task.kind),
        "n": len(rows),
        "seconds": main.seconds,
        "metrics": _records(measured),
        "truncated": {"rows": int((dropped > 0).sum()), "tokens": int(dropped.sum())},
        "baselines": {},
        "part_seconds": {str(purpose): one.seconds for purpose, one in found.items()},
    }
    if own := own_record(metrics):
        record["own_metrics"] = own
    if distribution:
        residual = main.scores.residual_mass
        record["residual_mass"] = {"mean": float(residual.mean()), "max": float(residual.max())}
        best, confidence = top(rows.log_softmax)
        bins = reliability_bins(confidence, best == rows.gold_codes, rows.items)
        record["reliability"] = list(map(asdict, bins))
    record |= task.kind.details(task, found, rows)
    if "pr_auc" in record["metrics"]:
        record["positive_label"] = task.positive_label or rarer_label(rows.gold, task.labels)
    if Purpose.GENERATED in found:
        record["generated"] = _generated(task, found)
    if baselines is not None:
        answers, record["part_seconds"]["baselines"] = baselines
        for name, predicted in answers.items():
            theirs = Predictions(
                rows.gold, predicted, task.labels, items=rows.items, asked=rows.asked
            )
            record["baselines"][name] = _records(compute(theirs, metrics))
    if calibration is not None:
        record["calibration"] = calibrated(calibration, main)
    return record


def _records(metrics: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval.record() for name, interval in metrics.items()}


def _generated(task: Task, found: ByPurpose) -> dict[str, Any]:
    """Metrics of free answers, and of the closed label set on the same rows."""
    main, free = found[Purpose.SCORES], found[Purpose.GENERATED]
    parsed = task.kind.parse(task, free.rows, free.predicted)
    rows = replace(free.predictions(scored=False), predicted=parsed, texts=free.predicted)
    closed = dict(zip(map(_phrased, main.rows), main.predicted, strict=True))
    same = replace(rows, predicted=[closed[_phrased(row)] for row in free.rows])
    return {
        "n": len(rows),
        "seconds": free.seconds,
        "metrics": _records(compute(rows, [accuracy, macro_f1, off_list_rate])),
        "closed_set": _records(compute(same, [accuracy, macro_f1])),
    }


def _phrased(row: Mapping[str, Any]) -> tuple[str, str]:
    """A row among those of a split, where an item may have several phrasings."""
    return row["id"], row["template"]


# Calibration


def fit_calibration(found: ByPurpose, target_precision: float) -> TaskCalibration:
    """Fit a task's calibration on its validation rows."""
    validation, prior = found[Purpose.VALIDATION], None
    if Purpose.CONTENT_FREE in found:
        prior = fit_contextual(found[Purpose.CONTENT_FREE].log_probs)
    return calibrate(
        validation.task.name, validation.predictions(), prior=prior, target=target_precision
    )


def calibrated(calibration: TaskCalibration, main: TaskScores) -> dict[str, Any]:
    """What a calibration does to rows that it was not fitted on, as results.json has it."""
    rows = main.predictions()
    best, confidence = top(calibration.calibrator.apply(rows.log_softmax))
    precision, coverage = at_threshold(
        calibration.threshold, confidence, best == rows.gold_codes, items=rows.items
    )
    record = calibration.model_dump(mode="json", exclude={"task", "labels", "log_prior"})
    for side, metrics in before_and_after(calibration.calibrator, rows).items():
        record[side] = _records(metrics)
    answered = None if precision is None else precision.record()
    record["answered"] = {"precision": answered, "coverage": coverage.record()}
    return record


# Comparisons


def _comparisons(
    inputs: Inputs, answered: Mapping[str, ByPurpose], others: Sequence[str]
) -> dict[str, Any]:
    tasks = inputs.tasks
    own: dict[str, Answers] = {}
    baselines: dict[str, dict[str, Answers]] = {}
    for task in tasks:
        main = answered[task.name][Purpose.SCORES]
        own[task.name] = answers_of(main.ids, main.gold, main.predicted)
        for name, predicted in (inputs.baselines(task) or ({}, 0.0))[0].items():
            answers = answers_of(main.ids, main.gold, predicted)
            baselines.setdefault(name, {})[task.name] = answers
    found = {}
    for name in others:
        directory = inputs.run.evaluations / name
        found[name] = compare_all(tasks, own, read_answers(directory), name, labels=True)
        path = directory / "results.json"
        theirs = read_json(path)
        with understood(path):
            for task_name, record in found[name].items():
                # Metrics of as many rows: of the same ones.
                if theirs["tasks"][task_name]["n"] == record["n"]:
                    record["metrics"] = theirs["tasks"][task_name]["metrics"]
    return found | {n: compare_all(tasks, own, other, n) for n, other in baselines.items()}


# Predictions


def _table(
    task: Task, found: ByPurpose, calibration: TaskCalibration | None
) -> dict[str, Sequence[Any]]:
    """The predictions of a task, a column a sequence; see `_write_predictions`."""
    main = found[Purpose.SCORES]
    count = len(main.rows)
    nothing: list[Any] = [None] * count
    confidence, over = nothing, nothing
    if calibration is not None:
        _, best = top(calibration.calibrator.apply(main.log_probs))
        confidence, least = best.tolist(), calibration.threshold
        over = [least is None or value < least for value in confidence]
    text, named = nothing, nothing
    if not task.kind.closed:
        text = main.predicted
    elif Purpose.GENERATED in found:
        free = found[Purpose.GENERATED]
        parsed = task.kind.parse(task, free.rows, free.predicted)
        answers = dict(
            zip(map(_phrased, free.rows), zip(free.predicted, parsed, strict=True), strict=True)
        )
        pairs = [answers.get(_phrased(row), (None, None)) for row in main.rows]
        text, named = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    other = found.get(Purpose.OTHER_WAY)
    return {
        "task": [task.name] * count,
        "id": main.ids,
        "gold": main.gold,
        "predicted": main.predicted,
        "scores": _scores(main),
        "residual_mass": main.scores.residual_mass.tolist() if task.kind.closed else nothing,
        "confidence": confidence,
        "hand_over": over,
        "text": text,
        "text_label": named,
        "predicted_other_way": nothing if other is None else other.predicted,
        "truncated_tokens": main.scores.dropped.tolist(),
    }


def _scores(main: TaskScores) -> list[list[dict[str, Any]]]:
    """The highest log-likelihoods of each row, of labels that were scored, in label order."""
    labels, rows = main.task.labels, []
    for log_probs, scored in zip(main.scores.log_probs, main.scores.scored, strict=True):
        known = np.flatnonzero(scored)
        if len(known) > _MOST_SCORES:
            known = known[np.argsort(-log_probs[known], kind="stable")[:_MOST_SCORES]]
        pairs = zip(known.tolist(), log_probs[known].tolist(), strict=True)
        rows.append([{"label": labels[i], "score": value} for i, value in pairs])
    return rows


def _write_predictions(path: Path, tables: Sequence[Mapping[str, Sequence[Any]]]) -> None:
    """Write the predictions of all tasks.

    Columns: task, id, gold, predicted; ``scores``, the log-likelihoods of the labels scored, at
    most the 100 highest; ``residual_mass``, the bound of the others' probability; ``confidence``
    and ``hand_over`` after calibration; ``text`` and ``text_label``, a free answer and the label it
    names; ``predicted_other_way``, of multiple choice; ``truncated_tokens`` of the prompt.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
        {
            "task": text,
            "id": text,
            "gold": text,
            "predicted": text,
            "scores": pa.list_(pa.struct({"label": text, "score": pa.float64()})),
            "residual_mass": pa.float64(),
            "confidence": pa.float64(),
            "hand_over": pa.bool_(),
            "text": text,
            "text_label": text,
            "predicted_other_way": text,
            "truncated_tokens": pa.int32(),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.concat_tables([pa.Table.from_pydict(dict(table), schema=schema) for table in tables]),
        sink,
    )
    write_atomic(path, sink.getvalue().to_pybytes())
