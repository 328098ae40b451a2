"""How well a score ranks the rows of one label before those of the other: two labels only.

Both metrics need rows of both labels, and say so with a ValueError where one is missing;
resamples that miss one are left out of the interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from multitask.metrics.estimate import (
    Clusters,
    Estimate,
    Floats,
    Groups,
    Ints,
    Statistics,
    bootstrap,
)


def roc_auc(
    positive: Sequence[bool] | npt.NDArray[np.bool_],
    score: npt.ArrayLike,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Probability that a positive row scores higher than a negative one; half for ties.

    The area under the ROC curve as the Mann-Whitney statistic (Hanley and McNeil, 1982), equal to
    scikit-learn's ``roc_auc_score``.

    Args:
        positive: Whether the gold label is the positive one.
        score: The positive label's probability, or anything that grows with it.
        clusters: The item of every row, where items have several.
        seed: Seeds the bootstrap.

    Raises:
        ValueError: Rows of only one label, sequences of different length, or a score is NaN.
    """
    return ranking_metrics(positive, score, clusters=clusters, seed=seed)["roc_auc"]


def pr_auc(
    positive: Sequence[bool] | npt.NDArray[np.bool_],
    score: npt.ArrayLike,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Average precision: the area under the precision-recall curve, as a step function.

    Equal to scikit-learn's ``average_precision_score``; linear interpolation would be too
    optimistic (Davis and Goadrich, 2006). The share of positive rows is what chance gives.
    Arguments and errors as :func:`roc_auc`.
    """
    return ranking_metrics(positive, score, clusters=clusters, seed=seed)["pr_auc"]


def ranking_metrics(
    positive: Sequence[bool] | npt.NDArray[np.bool_],
    score: npt.ArrayLike,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """``roc_auc`` and ``pr_auc`` with intervals from the same resamples."""
    wanted, scores = np.asarray(positive, dtype=np.bool_), np.asarray(score, dtype=np.float64)
    if wanted.shape != scores.shape or wanted.ndim != 1:
        raise ValueError(f"{wanted.shape} answers but {scores.shape} scores")
    if np.isnan(scores).any():
        raise ValueError(f"row {int(np.argmax(np.isnan(scores)))} has a score of NaN")
    if wanted.all() or not wanted.any():
        raise ValueError("ranking needs rows of both labels")
    _, places = np.unique(scores, return_inverse=True)
    if clusters is not None:
        statistics = _statistics(wanted, places.astype(np.int64))
        return bootstrap(statistics, len(wanted), clusters=clusters, seed=seed)
    cells, rows = np.unique(2 * places + wanted, return_counts=True)
    if 4 * len(cells) > len(wanted):
        return bootstrap(_statistics(wanted, places.astype(np.int64)), len(wanted), seed=seed)
    statistics = _statistics(cells % 2 == 1, (cells // 2).astype(np.int64))
    return bootstrap(statistics, rows.astype(np.int64), seed=seed)


def _statistics(positive: npt.NDArray[np.bool_], places: Ints) -> Statistics:
    size = int(places.max()) + 1
    of_positive, of_negative = Groups(places[positive], size), Groups(places[~positive], size)

    def statistics(weights: Floats) -> dict[str, Floats]:
        # Rows of each score, the lowest score first.
        yes = of_positive.sums(weights[:, positive])
        no = of_negative.sums(weights[:, ~positive])
        all_yes, all_no = yes.sum(axis=1), no.sum(axis=1)
        below = np.cumsum(no, axis=1) - no
        wins = (yes * (below + no / 2)).sum(axis=1)
        found_yes = np.cumsum(yes[:, ::-1], axis=1)
        found = found_yes + np.cumsum(no[:, ::-1], axis=1)
        precision = np.divide(found_yes, found, out=np.zeros_like(found), where=found > 0)
        gained = (yes[:, ::-1] * precision).sum(axis=1)
        undefined = (all_yes == 0) | (all_no == 0)
        pairs, positives = np.where(undefined, np.nan, all_yes * all_no), all_yes.copy()
        positives[undefined] = np.nan
        return {"roc_auc": wins / pairs, "pr_auc": gained / positives}

    return statistics
