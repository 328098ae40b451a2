"""Label probabilities from log-likelihoods, their metrics, and whether they mean what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from multitask.metrics.intervals import (
    Bools,
    Floats,
    Groups,
    Interval,
    Ints,
    Items,
    cells,
    distance,
    item_codes,
    items_at,
    resamples,
    share,
    simulated,
)
from multitask.metrics.registry import Predictions, Statistic, log_softmax, metric

BINS = 15

# Fewer say nothing of a bin's accuracy.
_LEAST_IN_BIN = 10
# Where scikit-learn cuts probabilities off, too: no row's log loss exceeds 36.04.
_LEAST = float(np.finfo(np.float64).eps)
_CLASSIFICATION = ("classification",)
_CLOSED = ("classification", "multiple_choice")


def score_matrix(
    rows: Sequence[tuple[Sequence[str], Sequence[float]]], labels: Sequence[str]
) -> Floats:
    """Labels of rows with their scores as one matrix, (rows, labels); NaN where a row lacks one.

    Raises:
        ValueError: A row has an unknown label or not one score per label.
    """
    index = {label: i for i, label in enumerate(labels)}
    matrix = np.full((len(rows), len(labels)), np.nan)
    for i, (found, scores) in enumerate(rows):
        unknown = set(found) - index.keys()
        if unknown:
            raise ValueError(f"row {i} has scores of unknown labels: {sorted(unknown)[:3]}")
        if len(found) != len(scores):
            raise ValueError(f"row {i} has {len(found)} labels but {len(scores)} scores")
        matrix[i, [index[label] for label in found]] = scores
    return matrix


def top(log_probs: npt.ArrayLike) -> tuple[Ints, Floats]:
    """The most probable label of each row, the first of equals, and its probability."""
    scores = log_softmax(log_probs)
    best = scores.argmax(axis=1).astype(np.int64)
    return best, np.exp(scores[np.arange(len(scores)), best])


TOP_K = (3, 5)
"""The k of the top-k accuracies."""


@metric(name="top_3_accuracy", title="Top-3 accuracy", kinds=_CLASSIFICATION, needs=["log_probs"])
def top_3_accuracy(predictions: Predictions) -> Bools | None:
    """Share of rows whose gold label is among the 3 most probable; of more than 3 labels."""
    return among_top(predictions, 3)


@metric(name="top_5_accuracy", title="Top-5 accuracy", kinds=_CLASSIFICATION, needs=["log_probs"])
def top_5_accuracy(predictions: Predictions) -> Bools | None:
    """Share of rows whose gold label is among the 5 most probable; of more than 5 labels."""
    return among_top(predictions, 5)


def among_top(predictions: Predictions, k: int) -> Bools | None:
    """Whether each row's gold label is among its k most probable; None of k labels or fewer.

    Of labels with equal scores the earlier one is higher. A gold label that was not scored (NaN or
    -inf) counts as missed: with labels not scored the share is a lower bound.
    """
    if k >= len(predictions.labels):
        return None
    # Without the residual mass, which would give labels not scored a rank.
    codes, scores = predictions.gold_codes, replace(predictions, residual_mass=None).log_softmax
    of_gold = scores[np.arange(len(codes)), codes][:, None]
    earlier = np.arange(scores.shape[1])[None] < codes[:, None]
    rank = (scores > of_gold).sum(axis=1) + ((scores == of_gold) & earlier).sum(axis=1)
    found: Bools = (rank < k) & np.isfinite(of_gold[:, 0])
    return found


@metric(
    name="log_loss",
    title="Log loss",
    higher_is_better=False,
    unit="nats",
    kinds=_CLOSED,
    needs=["log_probs"],
)
def log_loss(predictions: Predictions) -> Floats:
    """Mean negative log-probability of the gold label, in nats.

    As scikit-learn's ``log_loss``: probabilities are cut off at 2.2e-16, so that an impossible
    gold label costs 36.04 and not infinity. The uniform guess costs log(labels).
    """
    return row_losses(predictions.gold_codes, predictions.log_softmax)["log_loss"]


@metric(
    name="brier",
    title="Brier score",
    higher_is_better=False,
    unit="number",
    kinds=_CLOSED,
    needs=["log_probs"],
)
def brier(predictions: Predictions) -> Floats:
    """Mean squared distance between the probabilities and the gold label, 0 to 2.

    Brier's own definition (G. W. Brier, 1950, "Verification of forecasts expressed in terms of
    probability"), summed over the labels; with two labels it is twice what is often called the
    Brier score.
    """
    return row_losses(predictions.gold_codes, predictions.log_softmax)["brier"]


def row_losses(gold: Ints, log_probs: Floats) -> Mapping[str, Floats]:
    """The log loss and the Brier score of every row, of normalised log-probabilities."""
    probabilities = np.exp(log_probs)
    of_gold = probabilities[np.arange(len(gold)), gold]
    # Sum over labels of (p - y)^2, with y = 1 for gold alone.
    squares = np.einsum("ij,ij->i", probabilities, probabilities)
    return {
        "log_loss": -np.log(np.maximum(of_gold, _LEAST)),
        "brier": np.maximum(squares - 2 * of_gold + 1, 0.0),
    }


@metric(
    name="ece",
    title="Expected calibration error",
    higher_is_better=False,
    kinds=_CLOSED,
    needs=["log_probs"],
)
def ece(predictions: Predictions) -> Interval:
    """Mean distance of confidence and accuracy over 15 bins of equal mass, 0 to 1."""
    best, confidence = top(predictions.log_softmax)
    return expected_calibration_error(confidence, best == predictions.gold_codes, predictions.items)


def expected_calibration_error(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, items: Items | None = None
) -> Interval:
    """Mean distance of confidence and accuracy over 15 equal-mass bins, 0 to 1 (ECE).

    The error of the top label (Naeini et al., 2015; Guo et al., 2017, "On calibration of modern
    neural networks") with bins of equal mass, as Nguyen and O'Connor (2015) propose: bins of equal
    width hold hardly a row where most are confident.

    The number is too high on few rows, even for a calibrated model. The interval allows for that
    (:func:`~multitask.metrics.intervals.distance`; each resample is binned anew), and its lower end
    is 0 where a calibrated model would show as much: answers are drawn that are right as often as
    the confidence says (consistency resampling: Bröcker and Smith, 2007, "Increasing the
    reliability of reliability diagrams").

    Raises:
        ValueError: There are no rows, the two differ in length, or a confidence is outside 0..1.
    """
    sure, right = _checked(confidence, correct)
    order = np.argsort(sure, kind="stable")
    sure, right = sure[order], right[order]
    gap = (sure - right)[None]
    # The groups of equal confidence; none where all differ.
    new = np.r_[True, sure[1:] != sure[:-1]]
    ties = None if new.all() else Groups((np.cumsum(new) - 1).astype(np.int64), int(new.sum()))
    value = float(_error(np.ones_like(gap), gap, ties)[0])
    # Drawn by row, not by place: a confidence that moves a hair must not draw other rows.
    draws = [_error(weights[:, order], gap, ties) for weights in resamples(len(sure), items)]
    null = _calibrated(sure, order, items_at(items, order))
    return distance(value, np.concatenate(draws), null)


def _checked(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[Floats, Bools]:
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    if sure.shape != right.shape or sure.ndim != 1:
        raise ValueError(f"{sure.shape} confidences but {right.shape} answers")
    if not len(sure):
        raise ValueError("no rows")
    # A sum of rounded probabilities may exceed 1 by a hair.
    outside = ~((sure >= 0) & (sure <= 1 + 1e-9))
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"row {row} has a confidence of {sure[row]}, not in 0 to 1")
    return np.minimum(sure, 1.0), right


def _bins(confidence: Floats, bins: int) -> Ints:
    _, places, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    codes: Ints = _bin_of(counts.astype(np.float64)[None], bins)[0][places]
    return codes


def _bin_of(mass: Floats, bins: int) -> Ints:
    """The bin of each group of equal rows in confidence order: where its middle lies."""
    below = np.cumsum(mass, axis=1)
    middle = (below - mass / 2) / below[:, -1:]
    return np.minimum((middle * bins).astype(np.int64), bins - 1)


def _error(weights: Floats, gap: Floats, ties: Groups | None) -> Floats:
    """ECE of each resample; rows are in order of confidence."""
    weighted = weights * gap
    total = weights.sum(axis=1)
    if ties is not None:
        weights, weighted = ties.sums(weights), ties.sums(weighted)
    codes = _bin_of(weights, BINS) + np.arange(len(weights))[:, None] * BINS
    sums = np.bincount(codes.ravel(), weighted.ravel(), minlength=len(weights) * BINS)
    found: Floats = np.abs(sums.reshape(-1, BINS)).sum(axis=1) / total
    return found


def _calibrated(confidence: Floats, order: Ints, items: Items | None) -> Floats:
    """ECE of answers that are right as often as the confidence says, many times over."""
    rows = len(confidence)
    codes = _bins(confidence, BINS)
    # The rows of one item are right or wrong together: the most that items can do.
    units = None if items is None else item_codes(items, rows)
    size = rows if units is None else int(units.max()) + 1
    groups = Groups(codes, int(codes.max()) + 1)

    def draw(rng: np.random.Generator, count: int) -> Floats:
        uniform = rng.random((count, size))
        right = uniform[:, order if units is None else units] < confidence
        found: Floats = np.abs(groups.sums(confidence - right)).sum(axis=1) / rows
        return found

    return simulated(draw, rows)


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of similar confidence.

    Attributes:
        count: How many rows.
        low: Their lowest confidence.
        high: Their highest.
        confidence: Their mean confidence.
        accuracy: Share of them that is right.
    """

    count: int
    low: float
    high: float
    confidence: float
    accuracy: Interval


def reliability_bins(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, items: Items | None = None
) -> list[ReliabilityBin]:
    """Confidence against accuracy in bins of about equal mass, the least confident first.

    There are 15 bins, or fewer, so that each has 10 rows. Rows with equal confidence are never
    divided, so that the order of rows does not matter; bins may then be unequal, and some empty:
    those are left out.

    Raises:
        ValueError: There are no rows, the two differ in length, or a confidence is outside 0..1.
    """
    sure, right = _checked(confidence, correct)
    codes = _bins(sure, max(1, min(BINS, len(sure) // _LEAST_IN_BIN)))
    found = []
    for code in np.unique(codes):
        inside = np.flatnonzero(codes == code)
        found.append(
            ReliabilityBin(
                count=len(inside),
                low=float(sure[inside].min()),
                high=float(sure[inside].max()),
                confidence=float(sure[inside].mean()),
                accuracy=share(right[inside], items_at(items, inside)),
            )
        )
    return found


def rarer_label(gold: Sequence[str], labels: Sequence[str]) -> str:
    """The label that fewer rows have, the later one of equals: what a detector looks for.

    Of the common label a random score has a PR-AUC near 1.
    """
    counts = Counter(gold)
    return min(reversed(labels), key=lambda label: counts[label])


@metric(name="roc_auc", title="ROC-AUC", unit="number", kinds=_CLASSIFICATION, needs=["log_probs"])
def roc_auc(predictions: Predictions) -> Statistic | None:
    """Probability that a positive row scores higher than a negative one; half for ties.

    The area under the ROC curve as the Mann-Whitney statistic (Hanley and McNeil, 1982), equal to
    scikit-learn's ``roc_auc_score``. Of two labels with gold rows of both; resamples without one
    of them are left out of the interval.
    """
    ranking = _ranking(predictions)
    return None if ranking is None else Statistic(ranking.roc, ranking.rows)


@metric(name="pr_auc", title="PR-AUC", unit="number", kinds=_CLASSIFICATION, needs=["log_probs"])
def pr_auc(predictions: Predictions) -> Statistic | None:
    """Average precision: the area under the precision-recall curve, as a step function.

    Equal to scikit-learn's ``average_precision_score``; linear interpolation would be too
    optimistic (Davis and Goadrich, 2006). The share of positive rows is what chance gives. Of
    two labels, as ROC-AUC.
    """
    ranking = _ranking(predictions)
    return None if ranking is None else Statistic(ranking.pr, ranking.rows)


class _Ranking:
    """Rows, or cells of rows, by the rank of their score; two metrics share the counts."""

    def __init__(self, positive: Bools, ranks: Ints, rows: Ints | None) -> None:
        self.rows = rows
        self._positive = positive
        size = int(ranks.max()) + 1
        self._groups = Groups(ranks[positive], size), Groups(ranks[~positive], size)
        self._counted: tuple[Floats | None, Floats, Floats] = None, np.empty(0), np.empty(0)

    def _counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """Positive and negative rows of each score, the lowest first; NaN where one has none."""
        if self._counted[0] is not weights:
            yes = self._groups[0].sums(weights[:, self._positive])
            no = self._groups[1].sums(weights[:, ~self._positive])
            undefined = ~(yes.any(axis=1) & no.any(axis=1))
            yes[undefined] = no[undefined] = np.nan
            self._counted = weights, yes, no
        return self._counted[1:]

    def roc(self, weights: Floats) -> Floats:
        yes, no = self._counts(weights)
        below = np.cumsum(no, axis=1) - no
        wins = (yes * (below + no / 2)).sum(axis=1)
        area: Floats = wins / (yes.sum(axis=1) * no.sum(axis=1))
        return area

    def pr(self, weights: Floats) -> Floats:
        yes, no = self._counts(weights)
        found_yes = np.cumsum(yes[:, ::-1], axis=1)
        found = found_yes + np.cumsum(no[:, ::-1], axis=1)
        precision = np.divide(found_yes, found, out=np.zeros_like(found), where=found > 0)
        gained = (yes[:, ::-1] * precision).sum(axis=1)
        area: Floats = gained / yes.sum(axis=1)
        return area


@lru_cache(maxsize=1)
def _ranking(predictions: Predictions) -> _Ranking | None:
    labels, gold = predictions.labels, predictions.gold
    if len(labels) != 2 or len(set(gold)) != 2:
        return None
    wanted = predictions.positive_label or rarer_label(gold, labels)
    score = predictions.log_softmax[:, list(labels).index(wanted)]
    ranks = np.unique(score, return_inverse=True)[1]
    positive = np.array([label == wanted for label in gold])
    codes, rows = cells((2 * ranks + positive).astype(np.int64), predictions.items)
    return _Ranking(codes % 2 == 1, codes // 2, None if isinstance(rows, int) else rows)
