"""What the answers of a task come to: metrics with intervals, and where it errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from multitask.evaluation.calibrate import residual_mass, rows_of
from multitask.evaluation.parts import BASELINES, Purpose
from multitask.evaluation.settings import Settings
from multitask.evaluation.work import Finished
from multitask.metrics.classification import accuracy, macro_f1
from multitask.metrics.intervals import Interval
from multitask.metrics.probability import rarer_label, reliability_bins, top
from multitask.metrics.registry import Metric, Predictions, compute, own_record
from multitask.metrics.text import off_list_rate
from multitask.tasks import Task

Parts = Mapping[Purpose, Finished]


def task_results(task: Task, parts: Parts, settings: Settings) -> dict[str, Any]:
    """Everything that results.json says of a task but calibration and comparisons."""
    main = parts[Purpose.SCORES]
    predictions = main.predictions
    distribution = task.kind.closed and (settings.distribution or task.kind.exhaustive)
    rows = rows_of(predictions, task.labels, scored=distribution)
    rows = task.kind.measured(task, parts, replace(rows, positive_label=task.positive_label))
    metrics = task.chosen_metrics()
    record: dict[str, Any] = {
        "kind": str(task.kind),
        "n": len(predictions),
        "seconds": main.seconds,
        "metrics": _records(compute(rows, metrics)),
        "truncated": {
            "rows": sum(p.dropped > 0 for p in predictions),
            "tokens": sum(p.dropped for p in predictions),
        },
        "baselines": _baselines(task, parts, rows, metrics),
        "part_seconds": {str(purpose): part.seconds for purpose, part in parts.items()},
    }
    if own := own_record(metrics):
        record["own_metrics"] = own
    if distribution:
        left = residual_mass(predictions)
        record["unvisited"] = {"mean": float(left.mean()), "max": float(left.max())}
        record["reliability"] = _reliability(rows)
    record |= task.kind.details(task, parts, rows)
    if "pr_auc" in record["metrics"]:
        record["positive_label"] = task.positive_label or rarer_label(rows.gold, task.labels)
    if Purpose.GENERATED in parts:
        record["generated"] = _generated(task, parts[Purpose.GENERATED], main)
    return record


def _records(metrics: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval.record() for name, interval in metrics.items()}


def _reliability(rows: Predictions) -> list[dict[str, Any]]:
    best, confidence = top(rows.log_softmax)
    bins = reliability_bins(confidence, best == rows.gold_codes, rows.items)
    return [asdict(found) for found in bins]


def _baselines(
    task: Task, parts: Parts, rows: Predictions, metrics: Sequence[Metric]
) -> dict[str, dict[str, Any]]:
    if Purpose.BASELINES not in parts:
        return {}
    return {
        name: _records(
            compute(Predictions(rows.gold, answers, task.labels, items=rows.items), metrics)
        )
        for name, answers in baseline_answers(parts[Purpose.BASELINES]).items()
    }


def baseline_answers(part: Finished) -> dict[str, list[str]]:
    """What each baseline answers to the rows."""
    return {name: [record[name] for record in part.records] for name in BASELINES}


def parsed_answers(task: Task, part: Finished) -> list[str | None]:
    """The label that each freely generated answer names; None: off-list."""
    return task.kind.parse(task, part.part.rows, [record["predicted"] for record in part.records])


def _generated(task: Task, part: Finished, main: Finished) -> dict[str, Any]:
    """Metrics of free answers, and of the closed label set on the same rows."""
    rows = rows_of(part.predictions, task.labels, scored=False)
    free = replace(rows, predicted=parsed_answers(task, part), texts=rows.predicted)
    closed = {
        (row["id"], row["template"]): record["predicted"]
        for row, record in zip(main.part.rows, main.records, strict=True)
    }
    same = [closed[row["id"], row["template"]] for row in part.part.rows]
    return {
        "n": len(free),
        "seconds": part.seconds,
        "metrics": _records(compute(free, [accuracy, macro_f1, off_list_rate])),
        "closed_set": _records(compute(replace(free, predicted=same), [accuracy, macro_f1])),
    }
