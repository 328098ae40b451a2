"""Calibration on validation, and what it does to the rows that are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from multitask.calibration import TaskCalibration, before_and_after, calibrate, fit_contextual
from multitask.calibration.abstention import at_threshold
from multitask.evaluation.parts import Prediction
from multitask.evaluation.settings import Settings
from multitask.metrics.counts import gold_codes
from multitask.metrics.estimate import Clusters, Estimate, Floats, if_repeated
from multitask.metrics.probabilities import top
from multitask.tasks import Task


def matrix(predictions: Sequence[Prediction], labels: Sequence[str]) -> Floats:
    """Log-likelihoods of shape (rows, labels); -inf where a row does not have a label."""
    found = np.full((len(predictions), len(labels)), -np.inf)
    for row, prediction in zip(found, predictions, strict=True):
        row[: len(prediction.log_probs)] = prediction.log_probs
    return found


def residual_mass(predictions: Sequence[Prediction]) -> Floats:
    """Bound of each row's share of all probability that lies on labels not scored."""
    return np.array([p.residual_mass for p in predictions])


def clusters_of(predictions: Sequence[Prediction]) -> Clusters | None:
    """The items of rows, where rows repeat one (in several phrasings, say)."""
    return if_repeated([p.id for p in predictions])


def fit(
    task: Task,
    validation: Sequence[Prediction],
    content_free: Sequence[Prediction],
    settings: Settings,
) -> TaskCalibration:
    """Fit a task's calibration on its validation rows.

    Args:
        task: The task, with at least two labels.
        validation: Predictions of validation rows.
        content_free: Predictions of rows without content; none: no contextual calibration.
        settings: Gives the target precision.
    """
    prior = fit_contextual(matrix(content_free, task.labels)) if content_free else None
    return calibrate(
        task.name,
        task.labels,
        [p.gold for p in validation],
        matrix(validation, task.labels),
        prior=prior,
        target=settings.target_precision,
        clusters=clusters_of(validation),
    )


def apply(calibration: TaskCalibration, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What a calibration does to rows that it was not fitted on, for results.json.

    Returns:
        Method, temperature and threshold; metrics ``before`` and ``after`` with their ``change``;
        and ``answered``, the ``precision`` and ``coverage`` of the threshold.
    """
    gold = [p.gold for p in predictions]
    scores = matrix(predictions, calibration.labels)
    clusters = clusters_of(predictions)
    sides = before_and_after(
        calibration.calibrator,
        gold,
        scores,
        calibration.labels,
        clusters=clusters,
    )
    best, confidence = top(calibration.calibrator.apply(scores))
    correct = best == gold_codes(gold, calibration.labels)
    precision, coverage = at_threshold(
        calibration.threshold, confidence, correct, clusters=clusters
    )
    record = calibration.model_dump(mode="json", exclude={"task", "labels", "log_prior"})
    for side, metrics in sides.items():
        record[side] = {name: estimate.record() for name, estimate in metrics.items()}
    record["answered"] = {"precision": _record(precision), "coverage": coverage.record()}
    return record


def _record(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else estimate.record()


def confidences(
    calibration: TaskCalibration, predictions: Sequence[Prediction]
) -> tuple[Floats, list[bool]]:
    """Calibrated confidence of every row's answer, and whether it is handed over to a person."""
    scores = matrix(predictions, calibration.labels)
    applied = calibration.calibrator.apply(scores)
    _, confidence = top(applied)
    threshold = calibration.threshold
    return confidence, [threshold is None or c < threshold for c in confidence.tolist()]
