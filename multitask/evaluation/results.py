"""What the answers of a task come to: metrics with intervals, and where it errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from multitask.evaluation.calibrate import clusters_of, matrix, residual_mass
from multitask.evaluation.parts import BASELINES, Prediction, Purpose
from multitask.evaluation.settings import Settings
from multitask.evaluation.work import Finished
from multitask.metrics.classification import count_metrics
from multitask.metrics.counts import gold_codes
from multitask.metrics.estimate import Estimate
from multitask.metrics.kinds import rarer_label
from multitask.metrics.parse import off_list_rate
from multitask.metrics.probabilities import top
from multitask.metrics.reliability import reliability_bins
from multitask.tasks import Task

Parts = Mapping[Purpose, Finished]


def task_results(task: Task, parts: Parts, settings: Settings) -> dict[str, Any]:
    """Everything that results.json says of a task but calibration and comparisons."""
    main = parts[Purpose.SCORES]
    predictions = main.predictions
    gold, predicted = _answers(predictions)
    distribution = task.kind.closed and (settings.distribution or task.kind.exhaustive)
    metrics = task.kind.metrics(
        task,
        gold,
        predicted,
        matrix(predictions, task.labels) if distribution else None,
        parts=parts,
        clusters=clusters_of(predictions),
    )
    record: dict[str, Any] = {
        "kind": str(task.kind),
        "n": len(predictions),
        "seconds": main.seconds,
        "metrics": _records(metrics),
        "truncated": {
            "rows": sum(p.dropped > 0 for p in predictions),
            "tokens": sum(p.dropped for p in predictions),
        },
        "baselines": _baselines(task, parts, predictions),
        "part_seconds": {str(purpose): part.seconds for purpose, part in parts.items()},
    }
    if distribution:
        left = residual_mass(predictions)
        record["unvisited"] = {"mean": float(left.mean()), "max": float(left.max())}
        record["reliability"] = _reliability(task, predictions)
    record |= task.kind.details(task, parts)
    if "pr_auc" in record["metrics"]:
        record["positive_label"] = task.positive_label or rarer_label(gold, task.labels)
    if Purpose.GENERATED in parts:
        record["generated"] = _generated(task, parts[Purpose.GENERATED], main)
    return record


def _answers(predictions: Sequence[Prediction]) -> tuple[list[str], list[str]]:
    return [p.gold for p in predictions], [p.predicted for p in predictions]


def _records(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: estimate.record() for name, estimate in metrics.items()}


def _reliability(task: Task, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    best, confidence = top(matrix(predictions, task.labels))
    right = best == gold_codes([p.gold for p in predictions], task.labels)
    bins = reliability_bins(confidence, right, clusters=clusters_of(predictions))
    return [asdict(found) for found in bins]


def _baselines(
    task: Task, parts: Parts, predictions: Sequence[Prediction]
) -> dict[str, dict[str, Any]]:
    if Purpose.BASELINES not in parts:
        return {}
    gold, clusters = [p.gold for p in predictions], clusters_of(predictions)
    return {
        name: _records(task.kind.metrics(task, gold, answers, clusters=clusters))
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
    parsed = parsed_answers(task, part)
    free = part.predictions
    gold, clusters = [p.gold for p in free], clusters_of(free)
    names = ("accuracy", "macro_f1")
    closed = {
        (row["id"], row["template"]): record["predicted"]
        for row, record in zip(main.part.rows, main.records, strict=True)
    }
    same: list[str | None] = [closed[row["id"], row["template"]] for row in part.part.rows]
    metrics = count_metrics(gold, parsed, task.labels, names=names, clusters=clusters)
    metrics["off_list_rate"] = off_list_rate(parsed, clusters=clusters)
    of_closed = count_metrics(gold, same, task.labels, names=names, clusters=clusters)
    return {
        "n": len(free),
        "seconds": part.seconds,
        "metrics": _records(metrics),
        "closed_set": _records(of_closed),
    }
