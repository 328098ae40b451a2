"""Calibration on validation, and what it does to the rows that are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from multitask.evaluation.calibration import (
    TaskCalibration,
    at_threshold,
    before_and_after,
    calibrate,
    fit_contextual,
)
from multitask.evaluation.parts import Prediction
from multitask.evaluation.settings import Settings
from multitask.metrics.intervals import Floats, if_repeated
from multitask.metrics.probability import top
from multitask.metrics.registry import Predictions
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


def rows_of(
    predictions: Sequence[Prediction], labels: Sequence[str], *, scored: bool = True
) -> Predictions:
    """All predictions of a task, as metrics take them; ``scored`` with log-probabilities."""
    return Predictions(
        gold=[p.gold for p in predictions],
        predicted=[p.predicted for p in predictions],
        labels=labels,
        log_probs=matrix(predictions, labels) if scored else None,
        items=if_repeated([p.id for p in predictions]),
    )


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
        rows_of(validation, task.labels),
        prior=prior,
        target=settings.target_precision,
    )


def apply(calibration: TaskCalibration, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What a calibration does to rows that it was not fitted on, for results.json.

    Returns:
        Method, temperature and threshold; metrics ``before`` and ``after`` with their ``change``;
        and ``answered``, the ``precision`` and ``coverage`` of the threshold.
    """
    rows = rows_of(predictions, calibration.labels)
    sides = before_and_after(calibration.calibrator, rows)
    best, confidence = top(calibration.calibrator.apply(rows.log_softmax))
    precision, coverage = at_threshold(
        calibration.threshold, confidence, best == rows.gold_codes, items=rows.items
    )
    record = calibration.model_dump(mode="json", exclude={"task", "labels", "log_prior"})
    for side, metrics in sides.items():
        record[side] = {name: interval.record() for name, interval in metrics.items()}
    answered = None if precision is None else precision.record()
    record["answered"] = {"precision": answered, "coverage": coverage.record()}
    return record


def confidences(
    calibration: TaskCalibration, predictions: Sequence[Prediction]
) -> tuple[Floats, list[bool]]:
    """Calibrated confidence of every row's answer, and whether it is handed over to a person."""
    scores = matrix(predictions, calibration.labels)
    applied = calibration.calibrator.apply(scores)
    _, confidence = top(applied)
    threshold = calibration.threshold
    return confidence, [threshold is None or c < threshold for c in confidence.tolist()]
