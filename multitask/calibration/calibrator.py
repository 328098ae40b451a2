"""Calibrators: fitted on validation rows, applied to the log-probabilities of any others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from multitask.metrics.counts import gold_codes
from multitask.metrics.estimate import (
    Clusters,
    Estimate,
    Floats,
    Ints,
    bootstrap,
    cluster_codes,
    means,
    share,
)
from multitask.metrics.probabilities import normalised, row_losses, top
from multitask.metrics.reliability import expected_calibration_error

# A temperature beyond these means that validation has hardly an error to learn from, or no signal.
LEAST_TEMPERATURE = 0.05
MOST_TEMPERATURE = 20.0

_STEPS = 100
_NOTHING_TO_GAIN = 1e-12
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

    def apply(self, log_probs: npt.ArrayLike, unvisited: npt.ArrayLike | None = None) -> Floats:
        """Calibrate log-probabilities.

        Args:
            log_probs: Log-likelihoods of shape (rows, labels); labels that were not scored are
                -inf or NaN.
            unvisited: Bound of the mass on those; see
                :func:`~multitask.metrics.probabilities.normalised`.

        Returns:
            Normalised log-probabilities of the same shape.

        Raises:
            ValueError: As ``normalised``, or the prior is of other labels.
        """
        scores = normalised(log_probs, unvisited)
        if self.log_prior is not None:
            if len(self.log_prior) != scores.shape[1]:
                raise ValueError(f"a prior of {len(self.log_prior)} labels for {scores.shape[1]}")
            scores = normalised(scores - np.array(self.log_prior))
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


def fit_temperature(
    gold: Sequence[str],
    log_probs: npt.ArrayLike,
    labels: Sequence[str],
    *,
    after: Calibrator | None = None,
    clusters: Clusters | None = None,
) -> Calibrator:
    """Temperature scaling (Guo et al., 2017, "On calibration of modern neural networks").

    The temperature that gives validation rows the least negative log-likelihood, as
    :class:`Calibrator` applies it. That is convex in 1 / temperature, so Newton's method within a
    shrinking bracket finds the minimum. Predictions stay the same; only their confidence changes.

    Args:
        gold: Gold labels of the validation rows.
        log_probs: Their log-likelihoods of shape (rows, labels); labels that are NaN or -inf have
            no probability.
        labels: The label space, in the order of the columns.
        after: A calibrator whose prior is taken out first; its temperature is replaced.
        clusters: The item of every row, where items have several.

    Returns:
        The calibrator. Its temperature is 1, and the method says nothing of one, where it would
        not lower the log loss of these rows by more than the standard error of that gain: what is
        fitted then is chance. It is so where every likely answer is right, too: a lower one would
        always be likelier, without end. Otherwise it is within :data:`LEAST_TEMPERATURE` and
        :data:`MOST_TEMPERATURE`; the latter where the scores say nothing of gold.

    Raises:
        ValueError: There are no rows, the shapes do not fit, or a gold answer is no label.
    """
    codes = gold_codes(gold, labels)
    prior = after or Calibrator()
    prior = Calibrator(prior.method, log_prior=prior.log_prior)
    scores = prior.apply(log_probs)
    if scores.shape != (len(codes), len(labels)):
        raise ValueError(f"log-probabilities of shape {scores.shape} for {len(codes)} rows")
    best, odds = _odds(scores)
    wrong = best != codes
    likely = (odds > 0) & (wrong | np.isfinite(odds))
    odds, missed = np.minimum(odds[likely], _MOST_ODDS), wrong[likely]
    if not missed.any():
        return prior
    # As two labels: the answer, and all others.
    pairs = np.stack([np.zeros_like(odds), -odds], axis=1)
    sharpness = _sharpness(pairs, missed.astype(np.int64))
    signed = np.where(missed, odds, -odds)
    gain = np.zeros(len(codes))
    gain[likely] = np.logaddexp(0, signed) - np.logaddexp(0, signed * sharpness)
    if gain.sum() <= _standard_error(gain, clusters):
        return prior
    method = f"{prior.method}+temperature" if prior.log_prior is not None else "temperature"
    return Calibrator(method, 1 / sharpness, prior.log_prior)


def _standard_error(values: Floats, clusters: Clusters | None) -> float:
    """Of the sum of values, the rows of one item together."""
    if clusters is not None:
        values = np.bincount(cluster_codes(clusters, len(values)), values).astype(np.float64)
    return float(np.sqrt(len(values)) * values.std(ddof=1)) if len(values) > 1 else np.inf


def _sharpness(scores: Floats, gold: Ints) -> float:
    """The factor of the scores, 1 / temperature, that gives gold the highest likelihood."""
    finite = np.where(np.isfinite(scores), scores, 0.0)
    of_gold = scores[np.arange(len(gold)), gold]

    def slope(factor: float) -> tuple[float, float]:
        """First and second derivative of the mean negative log-likelihood."""
        p = np.exp(normalised(scores * factor))
        first = np.einsum("ij,ij->i", p, finite)
        second = np.einsum("ij,ij,ij->i", p, finite, finite) - first**2
        return float((first - of_gold).mean()), float(second.mean())

    low, high = 1 / MOST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    factor = 1.0
    for _ in range(_STEPS):
        first, second = slope(factor)
        low, high = (factor, high) if first < 0 else (low, factor)
        step = factor - first / second if second > 0 else (low if first > 0 else high)
        if abs(first) < _NOTHING_TO_GAIN or abs(step - factor) < 1e-10 * factor:
            return factor
        # Newton may leave the bracket where the curve is flat.
        following = step if low < step < high else (low * high) ** 0.5
        if high / low < 1 + 1e-10:
            break
        factor = following
    return high if first < 0 else low


def fit_contextual(content_free: npt.ArrayLike) -> Calibrator:
    """Contextual calibration (Zhao et al., 2021, "Calibrate before use").

    Each label's probability is divided by the one that it gets for a text without content, such as
    "N/A", an empty text or "[MASK]"; several such inputs are averaged.

    Args:
        content_free: Log-likelihoods of the labels on content-free inputs, of shape (labels,) or
            (inputs, labels), all finite.

    Raises:
        ValueError: A log-likelihood is not finite.
    """
    scores = np.atleast_2d(np.asarray(content_free, dtype=np.float64))
    if not np.isfinite(scores).all():
        raise ValueError("a content-free input needs the score of every label")
    return Calibrator("contextual", log_prior=_log_mean(normalised(scores)))


def _log_mean(scores: Floats) -> tuple[float, ...]:
    mean = np.exp(scores).mean(axis=0)
    if not (mean > 0).all():
        raise ValueError(f"label number {int(np.argmin(mean))} has probability 0 in every row")
    return tuple(np.log(mean).tolist())


def before_and_after(
    calibrator: Calibrator,
    gold: Sequence[str],
    log_probs: npt.ArrayLike,
    labels: Sequence[str],
    *,
    unvisited: npt.ArrayLike | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """What a calibrator does to rows that it was not fitted on.

    Returns:
        ``before`` and ``after``, each with ``accuracy``, ``log_loss``, ``brier`` and ``ece``; and
        ``change``, after minus before, of log loss and Brier on the same resampled rows.

    Raises:
        ValueError: As the metrics.
    """
    given = normalised(log_probs, unvisited)
    sides = {"before": given, "after": calibrator.apply(given)}
    codes = gold_codes(gold, labels)
    found: dict[str, dict[str, Estimate]] = {}
    losses = {}
    for side, scores in sides.items():
        losses[side] = row_losses(gold, scores, labels)
        predicted, confidence = top(scores)
        right = predicted == codes
        found[side] = {
            "accuracy": share(right, clusters=clusters, seed=seed),
            **bootstrap(means(losses[side]), len(codes), clusters=clusters, seed=seed),
            "ece": expected_calibration_error(confidence, right, clusters=clusters, seed=seed),
        }
    change = {name: losses["after"][name] - losses["before"][name] for name in losses["after"]}
    found["change"] = bootstrap(means(change), len(codes), clusters=clusters, seed=seed)
    return found
