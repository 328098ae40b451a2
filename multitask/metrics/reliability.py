"""Whether confidence means what it says: reliability bins and expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from multitask.metrics.estimate import (
    RESAMPLES,
    Clusters,
    Estimate,
    Floats,
    Groups,
    Ints,
    cluster_codes,
    distance,
    items_at,
    resamples,
    share,
)

BINS = 15

# Fewer say nothing of a bin's accuracy.
_LEAST_IN_BIN = 10


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
    accuracy: Estimate


def reliability_bins(
    confidence: npt.ArrayLike,
    correct: Sequence[bool] | npt.NDArray[np.bool_],
    *,
    bins: int | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> list[ReliabilityBin]:
    """Confidence against accuracy in bins of about equal mass, the least confident first.

    Rows with equal confidence are never divided, so that the order of rows does not matter; bins
    may then be unequal, and some empty: those are left out.

    Args:
        confidence: Probability of each row's prediction, 0 to 1.
        correct: Whether the prediction is right.
        bins: How many bins; default: 15, or fewer, so that each has 10 rows.
        clusters: The item of every row, where items have several.
        seed: Seeds the clustered bootstrap of the accuracies.

    Raises:
        ValueError: There are no rows, the two differ in length, or a confidence is outside 0..1.
    """
    sure, right = _checked(confidence, correct)
    if bins is None:
        bins = max(1, min(BINS, len(sure) // _LEAST_IN_BIN))
    codes = _bins(sure, bins)
    found = []
    for code in np.unique(codes):
        inside = np.flatnonzero(codes == code)
        items = items_at(clusters, inside)
        found.append(
            ReliabilityBin(
                count=len(inside),
                low=float(sure[inside].min()),
                high=float(sure[inside].max()),
                confidence=float(sure[inside].mean()),
                accuracy=share(right[inside], clusters=items, seed=seed),
            )
        )
    return found


def expected_calibration_error(
    confidence: npt.ArrayLike,
    correct: Sequence[bool] | npt.NDArray[np.bool_],
    *,
    bins: int = BINS,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Mean distance of confidence and accuracy over equal-mass bins, 0 to 1 (ECE).

    The error of the top label (Naeini et al., 2015; Guo et al., 2017, "On calibration of modern
    neural networks") with bins of equal mass, as Nguyen and O'Connor (2015) propose: bins of equal
    width hold hardly a row where most are confident.

    The number is too high on few rows, even for a calibrated model. The interval allows for that
    (:func:`~multitask.metrics.estimate.distance`; each resample is binned anew), and its lower end
    is 0 where a calibrated model would show as much: answers are drawn that are right as often as
    the confidence says (consistency resampling: Bröcker and Smith, 2007, "Increasing the
    reliability of reliability diagrams"). Arguments and errors as :func:`reliability_bins`.
    """
    sure, right = _checked(confidence, correct)
    order = np.argsort(sure, kind="stable")
    sure, right = sure[order], right[order]
    items = items_at(clusters, order)
    gap = (sure - right)[None]
    groups = _ties(sure)
    value = float(_error(np.ones_like(gap), gap, groups, bins)[0])
    # Drawn by row, not by place: a confidence that moves a hair must not draw other rows.
    draws = [
        _error(weights[:, order], gap, groups, bins)
        for weights in resamples(len(sure), clusters=clusters, seed=seed)
    ]
    null = _calibrated(sure, _bins(sure, bins), order, items, seed)
    return distance(value, np.concatenate(draws), null)


def _checked(
    confidence: npt.ArrayLike, correct: Sequence[bool] | npt.NDArray[np.bool_]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
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


def _ties(ordered: Floats) -> Groups | None:
    """The groups of equal confidence; none where all differ."""
    new = np.r_[True, ordered[1:] != ordered[:-1]]
    if new.all():
        return None
    return Groups((np.cumsum(new) - 1).astype(np.int64), int(new.sum()))


def _bins(confidence: Floats, bins: int) -> Ints:
    _, places, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    codes: Ints = _bin_of(counts.astype(np.float64)[None], bins)[0][places]
    return codes


def _bin_of(mass: Floats, bins: int) -> Ints:
    """The bin of each group of equal rows in confidence order: where its middle lies."""
    below = np.cumsum(mass, axis=1)
    middle = (below - mass / 2) / below[:, -1:]
    return np.minimum((middle * bins).astype(np.int64), bins - 1)


def _error(weights: Floats, gap: Floats, groups: Groups | None, bins: int) -> Floats:
    """ECE of each resample; rows are in order of confidence."""
    weighted = weights * gap
    total = weights.sum(axis=1)
    if groups is not None:
        weights, weighted = groups.sums(weights), groups.sums(weighted)
    codes = _bin_of(weights, bins) + np.arange(len(weights))[:, None] * bins
    sums = np.bincount(codes.ravel(), weighted.ravel(), minlength=len(weights) * bins)
    found: Floats = np.abs(sums.reshape(-1, bins)).sum(axis=1) / total
    return found


def _calibrated(
    confidence: Floats, codes: Ints, order: Ints, clusters: Clusters | None, seed: int
) -> Floats:
    """ECE of answers that are right as often as the confidence says, many times over."""
    rows = len(confidence)
    # The rows of one item are right or wrong together: the most that clusters can do.
    units = None if clusters is None else cluster_codes(clusters, rows)
    size = rows if units is None else int(units.max()) + 1
    groups = Groups(codes, int(codes.max()) + 1)
    rng = np.random.default_rng([seed, 1])
    step = max(1, 4_000_000 // rows)
    found = []
    for start in range(0, RESAMPLES, step):
        uniform = rng.random((min(step, RESAMPLES - start), size))
        right = uniform[:, order if units is None else units] < confidence
        found.append(np.abs(groups.sums(confidence - right)).sum(axis=1) / rows)
    return np.concatenate(found)
