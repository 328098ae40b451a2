"""Calibration: probabilities that mean what they say, and when to hand over to a person.

Fitted on validation rows, written to ``calibration.json`` beside a model, applied to any others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from multitask.errors import InputError
from multitask.files import read_json
from multitask.metrics.intervals import (
    Bools,
    Floats,
    Interval,
    Ints,
    Items,
    bootstrap,
    item_codes,
    means,
    share,
    wilson,
    wilson_ends,
)
from multitask.metrics.probability import expected_calibration_error, row_losses, top
from multitask.metrics.registry import Predictions, log_softmax
from multitask.run import write_atomic

FILE_NAME = "calibration.json"

TARGET_PRECISION = 0.95

# A temperature beyond these means that validation has hardly an error to learn from, or no signal.
LEAST_TEMPERATURE = 0.05
MOST_TEMPERATURE = 20.0

_MOST_ODDS = 700.0


@dataclass(frozen=True)
class Calibrator:
    """A change of log-probabilities: first a prior is taken out, then a temperature divides.

    Of an answer that is more likely than not, the temperature divides the log-odds against all
    other labels together; these keep their proportions (Le Coz et al., 2024, "Confidence
    calibration of classifiers with many classes": the top label versus all). Of two labels that is
    temperature scaling as Guo et al. (2017) define it. Of many it is not swayed by how thinly the
    rest is spread, so it needs the scores of the labels in the tail no more than their sum.

    Attributes:
        method: How it was fitted, such as ``temperature`` or ``contextual+temperature``.
        temperature: Above 1 makes the model less confident.
        log_prior: Of each label, the log of how much the model likes it whatever the text; None
            where nothing is taken out.
    """

    method: str = "none"
    temperature: float = 1.0
    log_prior: tuple[float, ...] | None = None

    def apply(self, log_probs: npt.ArrayLike, residual_mass: npt.ArrayLike | None = None) -> Floats:
        """Normalised log-probabilities of log-likelihoods, both of shape (rows, labels).

        Labels that were not scored are -inf or NaN; for ``residual_mass`` see
        :func:`~multitask.metrics.registry.log_softmax`.

        Raises:
            ValueError: Scores that are no log-likelihoods, or the prior is of other labels.
        """
        scores = log_softmax(log_probs, residual_mass)
        if self.log_prior is not None:
            if len(self.log_prior) != scores.shape[1]:
                raise ValueError(f"a prior of {len(self.log_prior)} labels for {scores.shape[1]}")
            scores = log_softmax(scores - np.array(self.log_prior))
        return scores if self.temperature == 1 else _divided(scores, self.temperature)


def _odds(scores: Floats) -> tuple[Ints, Floats]:
    """The best label of each row, and its log-odds against all others together."""
    rows = np.arange(len(scores))
    best = scores.argmax(axis=1)
    others = scores.copy()
    others[rows, best] = -np.inf
    with np.errstate(divide="ignore"):
        rest = np.log(np.exp(others).sum(axis=1))
    return best, scores[rows, best] - rest


def _divided(scores: Floats, temperature: float) -> Floats:
    """Log-probabilities with the log-odds of likely answers divided; the predictions stay."""
    best, odds = _odds(scores)
    likely = np.flatnonzero((odds > 0) & np.isfinite(odds))
    odds, best = odds[likely], best[likely]
    found = scores.copy()
    others = -np.logaddexp(0, odds / temperature) + np.logaddexp(0, odds)
    found[likely] += others[:, None]
    found[likely, best] = -np.logaddexp(0, -odds / temperature)
    return found


def fit_temperature(validation: Predictions, *, after: Calibrator | None = None) -> Calibrator:
    """Temperature scaling (Guo et al., 2017, "On calibration of modern neural networks").

    The temperature that gives validation rows the least negative log-likelihood, as
    :class:`Calibrator` applies it; that is convex in 1 / temperature. Predictions stay the same;
    only their confidence changes.

    The prior of a calibrator ``after`` is taken out first.

    Returns:
        The calibrator. Its temperature is 1, and the method says nothing of one, where it would
        not lower the log loss of these rows by more than the standard error of that gain: what is
        fitted then is chance. It is so where every likely answer is right, too: a lower one would
        always be likelier, without end. Otherwise it is within :data:`LEAST_TEMPERATURE` and
        :data:`MOST_TEMPERATURE`; the latter where the scores say nothing of gold.

    Raises:
        ValueError: A gold answer is no label, or the prior is of other labels.
    """
    codes = validation.gold_codes
    prior = after or Calibrator()
    best, odds = _odds(prior.apply(validation.log_softmax))
    wrong = best != codes
    likely = (odds > 0) & (wrong | np.isfinite(odds))
    odds, missed = np.minimum(odds[likely], _MOST_ODDS), wrong[likely]
    if not missed.any():
        return prior
    # As two labels: the answer, and all others.
    signed = np.where(missed, odds, -odds)
    sharpness = _sharpness(signed)
    gain = np.zeros(len(codes))
    gain[likely] = np.logaddexp(0, signed) - np.logaddexp(0, signed * sharpness)
    if gain.sum() <= _standard_error(gain, validation.items):
        return prior
    method = f"{prior.method}+temperature" if prior.log_prior is not None else "temperature"
    return Calibrator(method, 1 / sharpness, prior.log_prior)


def _standard_error(values: Floats, items: Items | None) -> float:
    """Of the sum of values, the rows of one item together."""
    if items is not None:
        values = np.bincount(item_codes(items, len(values)), values).astype(np.float64)
    return float(np.sqrt(len(values)) * values.std(ddof=1)) if len(values) > 1 else np.inf


def _sharpness(signed: Floats) -> float:
    """1 / temperature of the least log loss; log-odds are positive where the answer is wrong."""
    from scipy.optimize import brentq
    from scipy.special import expit

    def slope(factor: float) -> float:
        return float((signed * expit(signed * factor)).mean())

    low, high = 1 / MOST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    if slope(low) >= 0:
        return low
    return high if slope(high) <= 0 else float(brentq(slope, low, high, xtol=1e-14, rtol=1e-14))


def fit_contextual(content_free: npt.ArrayLike) -> Calibrator:
    """Contextual calibration (Zhao et al., 2021, "Calibrate before use").

    Each label's probability is divided by the one that it gets for a text without content, such as
    "N/A", an empty text or "[MASK]"; several such inputs are averaged.

    The log-likelihoods are of shape (labels,) or (inputs, labels), all finite.

    Raises:
        ValueError: A log-likelihood is not finite, or a label has no probability.
    """
    scores = np.atleast_2d(np.asarray(content_free, dtype=np.float64))
    if not np.isfinite(scores).all():
        raise ValueError("a content-free input needs the score of every label")
    mean = np.exp(log_softmax(scores)).mean(axis=0)
    if not (mean > 0).all():
        raise ValueError(f"label number {int(np.argmin(mean))} has probability 0 in every row")
    return Calibrator("contextual", log_prior=tuple(np.log(mean).tolist()))


def before_and_after(
    calibrator: Calibrator, predictions: Predictions
) -> dict[str, dict[str, Interval]]:
    """What a calibrator does to rows that it was not fitted on.

    Returns:
        ``before`` and ``after``, each with ``accuracy``, ``log_loss``, ``brier`` and ``ece``; and
        ``change``, after minus before, of log loss and Brier on the same resampled rows.
    """
    codes, items = predictions.gold_codes, predictions.items
    given = predictions.log_softmax
    found: dict[str, dict[str, Interval]] = {}
    losses = {}
    for side, scores in {"before": given, "after": calibrator.apply(given)}.items():
        losses[side] = row_losses(codes, scores)
        best, confidence = top(scores)
        right = best == codes
        found[side] = {
            "accuracy": share(right, items),
            **bootstrap(means(losses[side]), len(codes), items),
            "ece": expected_calibration_error(confidence, right, items),
        }
    change = {name: losses["after"][name] - losses["before"][name] for name in losses["after"]}
    found["change"] = bootstrap(means(change), len(codes), items)
    return found


class Threshold(NamedTuple):
    """From which confidence on the model answers; below it a person does.

    ``threshold`` is None where none reaches the target, so that everything is handed over;
    ``precision``, the share of the answered rows that is right, where none is answered;
    ``coverage`` is the share of rows that is answered.
    """

    threshold: float | None
    precision: Interval | None
    coverage: Interval


def choose_threshold(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    target: float = TARGET_PRECISION,
    items: Items | None = None,
) -> Threshold:
    """The threshold that answers most rows among those that reach a precision.

    The threshold is chosen among many, on the rows that also measure it: the best precision owes
    itself partly to luck, and more than half of the thresholds chosen by it would miss the target
    on new rows. Hence the lower end of the 95 % Wilson interval has to reach the target: no more
    than about one choice in twenty misses it, at the price of fewer rows answered, and of more
    rows needed: 73 answered without an error for 0.95. (Geifman and El-Yaniv, 2017, "Selective
    classification for deep neural networks", bound the risk of a chosen threshold for the same
    reason.) That none reaches the target is a result and not an error.

    Where several rows come from one item, each item counts as one row: as if its rows were right or
    wrong together, the worst case.

    Raises:
        ValueError: There are no rows, the sequences differ in length, a confidence is NaN, or the
            target is out of range.
    """
    if not 0 < target <= 1:
        raise ValueError(f"a target precision of {target}, not above 0 and at most 1")
    sure, right, codes = _ordered(confidence, correct, items)
    last = np.flatnonzero(np.r_[sure[1:] != sure[:-1], True])  # of equal confidences
    new = np.zeros(len(codes))
    new[np.unique(codes, return_index=True)[1]] = 1
    precision = np.cumsum(right)[last] / (last + 1)
    reaching = wilson_ends(precision, np.cumsum(new)[last])[0] >= target
    chosen = float(sure[last[reaching][-1]]) if reaching.any() else None
    return Threshold(chosen, *at_threshold(chosen, confidence, correct, items=items))


def at_threshold(
    threshold: float | None,
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    items: Items | None = None,
) -> tuple[Interval | None, Interval]:
    """Precision and coverage of a threshold, such as one from validation on test rows.

    Both have Wilson intervals; where rows repeat items, each item counts as one row.

    Returns:
        The precision, None where no row is answered, and the coverage.
    """
    sure, right, codes = _ordered(confidence, correct, items)
    answered = np.zeros(len(sure), bool) if threshold is None else sure >= threshold
    count = len(np.unique(codes))
    coverage = wilson(float(answered.mean()) * count, count)
    if not answered.any():
        return None, coverage
    count = len(np.unique(codes[answered]))
    return wilson(float(right[answered].mean()) * count, count), coverage


def _ordered(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, items: Items | None
) -> tuple[Floats, Bools, Ints]:
    """Confidence, whether right, and item of every row, the most confident first."""
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    if sure.shape != right.shape or sure.ndim != 1:
        raise ValueError(f"{sure.shape} confidences but {right.shape} answers")
    if not len(sure):
        raise ValueError("no rows")
    if np.isnan(sure).any():
        raise ValueError(f"row {int(np.argmax(np.isnan(sure)))} has a confidence of NaN")
    codes = np.arange(len(sure)) if items is None else item_codes(items, len(sure))
    order = np.argsort(-sure, kind="stable")
    return sure[order], right[order], codes[order]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskCalibration(_Strict):
    """How to read a model's scores, in the order of ``labels``, on one task.

    A `Calibrator`, and a `Threshold` that the precision's lower end (``rule``) had to reach on
    validation, with what is expected of it there.
    """

    task: str
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    method: str
    temperature: Annotated[float, Field(gt=0)]
    log_prior: tuple[float, ...] | None = None
    target_precision: Annotated[float, Field(gt=0, le=1)]
    rule: Literal["lower_bound"]
    threshold: Annotated[float, Field(ge=0, le=1)] | None
    validation_rows: Annotated[int, Field(ge=1)]
    expected_precision: Interval | None
    expected_coverage: Interval

    @model_validator(mode="after")
    def _of_one_label_space(self) -> TaskCalibration:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("the label space names a label twice")
        if self.log_prior is not None and len(self.log_prior) != len(self.labels):
            raise ValueError(f"{len(self.log_prior)} priors for {len(self.labels)} labels")
        return self

    @property
    def calibrator(self) -> Calibrator:
        """What turns log-likelihoods into calibrated log-probabilities."""
        return Calibrator(self.method, self.temperature, self.log_prior)


def calibrate(
    task: str,
    validation: Predictions,
    *,
    prior: Calibrator | None = None,
    target: float = TARGET_PRECISION,
) -> TaskCalibration:
    """Fit temperature and threshold on a task's validation rows.

    One number is fitted for the temperature, so that choosing the threshold on the same rows costs
    little. ``prior``, a contextual calibrator, is applied first.

    Raises:
        ValueError: A gold answer is no label, or the prior is of other labels.
    """
    calibrator = fit_temperature(validation, after=prior)
    best, confidence = top(calibrator.apply(validation.log_softmax))
    correct = best == validation.gold_codes
    chosen = choose_threshold(confidence, correct, target=target, items=validation.items)
    return TaskCalibration(
        task=task,
        labels=tuple(validation.labels),
        method=calibrator.method,
        temperature=calibrator.temperature,
        log_prior=calibrator.log_prior,
        target_precision=target,
        rule="lower_bound",
        threshold=chosen.threshold,
        validation_rows=len(validation),
        expected_precision=chosen.precision,
        expected_coverage=chosen.coverage,
    )


class _File(_Strict):
    version: Literal[1]
    tasks: list[TaskCalibration]


def save(path: Path, calibrations: Iterable[TaskCalibration]) -> None:
    """Write the calibration of a model's tasks, replacing the file."""
    content = _File(version=1, tasks=list(calibrations)).model_dump(mode="json")
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load(path: Path) -> dict[str, TaskCalibration]:
    """Read what :func:`save` wrote, by task.

    Raises:
        InputError: There is no such file, it is no JSON, or a key is missing, unknown or wrong.
    """
    fix = "make it again with `multitask evaluate`, or remove it"
    if not path.is_file():
        raise InputError("there is no calibration", where=path, fix=fix)
    content = read_json(path, fix=fix)
    try:
        found = _File.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{place}: {first['msg']}", where=path, fix=fix) from None
    return {calibration.task: calibration for calibration in found.tasks}
