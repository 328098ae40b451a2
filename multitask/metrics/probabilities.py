"""Label probabilities from log-likelihoods, and the metrics of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from multitask.metrics.counts import gold_codes, label_index
from multitask.metrics.estimate import Clusters, Estimate, Floats, Ints, bootstrap, means, share

# Where scikit-learn cuts probabilities off, too: no row's log loss exceeds 36.04.
_LEAST = float(np.finfo(np.float64).eps)


def score_matrix(
    rows: Sequence[tuple[Sequence[str], Sequence[float]]], labels: Sequence[str]
) -> Floats:
    """Rows of labels with their scores as one matrix, NaN where a row lacks a label.

    Args:
        rows: Of each row, the labels that it has and their log-likelihoods.
        labels: The label space; gives the columns.

    Returns:
        Scores of shape (rows, labels).

    Raises:
        ValueError: A row has an unknown label or not one score per label.
    """
    index = label_index(labels)
    matrix = np.full((len(rows), len(labels)), np.nan)
    for i, (found, scores) in enumerate(rows):
        unknown = set(found) - index.keys()
        if unknown:
            raise ValueError(f"row {i} has scores of unknown labels: {sorted(unknown)[:3]}")
        if len(found) != len(scores):
            raise ValueError(f"row {i} has {len(found)} labels but {len(scores)} scores")
        matrix[i, [index[label] for label in found]] = scores
    return matrix


def normalised(log_probs: npt.ArrayLike, unvisited: npt.ArrayLike | None = None) -> Floats:
    """Log-probabilities over the label set from log-likelihoods, a softmax over each row.

    A label that is not finite (-inf or NaN) was not scored. Without a bound it is impossible: its
    probability is 0. With a bound above 0, all such labels of the row are given that mass in equal
    parts. The mass of scored labels is then a lower bound, so that the confidence of a prediction
    is never overstated by what was not visited.

    Args:
        log_probs: Log-likelihoods of shape (rows, labels); they need not be normalised.
        unvisited: Upper bound of the share of each row's mass that lies on labels not scored, of
            shape (rows,) or one number for all; at least 0 and below 1.

    Returns:
        Log-probabilities of the same shape; each row's probabilities sum to 1.

    Raises:
        ValueError: Not a matrix, a score of +inf, a row without any score, or a bound outside
            its range; the row is named.
    """
    scores = np.array(log_probs, dtype=np.float64)
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"log-probabilities of shape {scores.shape}, not (rows, labels)")
    scored = np.isfinite(scores)
    for wrong, what in ((np.isposinf(scores).any(1), "+inf"), (~scored.any(1), "no finite score")):
        if wrong.any():
            raise ValueError(f"row {int(np.argmax(wrong))} has {what}")
    scores[~scored] = -np.inf
    scores -= _log_sum(scores)
    if unvisited is None:
        return scores
    mass = np.broadcast_to(np.asarray(unvisited, dtype=np.float64), len(scores))
    outside = ~((mass >= 0) & (mass < 1))
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"row {row} has an unvisited mass of {mass[row]}, not in [0, 1)")
    missing = scores.shape[1] - scored.sum(axis=1)
    mass = np.where(missing > 0, mass, 0.0)
    with np.errstate(divide="ignore"):  # log(0) is the -inf that is meant
        share_of_each = np.log(mass) - np.log(np.maximum(missing, 1))
    return np.where(scored, scores + np.log1p(-mass)[:, None], share_of_each[:, None])


def _log_sum(scores: Floats) -> Floats:
    highest = scores.max(axis=1, keepdims=True)
    total: Floats = highest + np.log(np.exp(scores - highest).sum(axis=1, keepdims=True))
    return total


def top(log_probs: npt.ArrayLike) -> tuple[Ints, Floats]:
    """The most probable label of each row, the first of equals, and its probability."""
    scores = normalised(log_probs)
    best = scores.argmax(axis=1).astype(np.int64)
    return best, np.exp(scores[np.arange(len(scores)), best])


def log_loss(
    gold: Sequence[str],
    log_probs: npt.ArrayLike,
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Mean negative log-probability of the gold label, in nats.

    As scikit-learn's ``log_loss``: probabilities are cut off at 2.2e-16, so that an impossible
    gold label costs 36.04 and not infinity. The uniform guess costs log(labels).

    Args:
        gold: Gold labels.
        log_probs: Log-likelihoods of shape (rows, labels); normalised over the labels here. Give
            rows with unvisited labels as :func:`normalised` returns them.
        labels: The label space, in the order of the columns.
        clusters: The item of every row, where items have several.
        seed: Seeds the bootstrap.

    Raises:
        ValueError: As :func:`normalised`; there are no rows, a gold answer is no label, or the
            shapes do not fit.
    """
    return probability_metrics(gold, log_probs, labels, clusters=clusters, seed=seed)["log_loss"]


def brier(
    gold: Sequence[str],
    log_probs: npt.ArrayLike,
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Mean squared distance between the probabilities and the gold label, 0 to 2.

    Brier's own definition (G. W. Brier, 1950, "Verification of forecasts expressed in terms of
    probability"), summed over the labels; with two labels it is twice what is often called the
    Brier score. Arguments and errors as :func:`log_loss`.
    """
    return probability_metrics(gold, log_probs, labels, clusters=clusters, seed=seed)["brier"]


def probability_metrics(
    gold: Sequence[str],
    log_probs: npt.ArrayLike,
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """``log_loss`` and ``brier`` with intervals from the same resamples."""
    columns = row_losses(gold, log_probs, labels)
    rows = len(columns["log_loss"])
    return bootstrap(means(columns), rows, clusters=clusters, seed=seed)


def row_losses(
    gold: Sequence[str], log_probs: npt.ArrayLike, labels: Sequence[str]
) -> Mapping[str, Floats]:
    """The log loss and the Brier score of every row; the metrics are their means."""
    codes, scores = _matched(gold, log_probs, labels)
    probabilities = np.exp(scores)
    of_gold = probabilities[np.arange(len(codes)), codes]
    # Sum over labels of (p - y)^2, with y = 1 for gold alone.
    squares = np.einsum("ij,ij->i", probabilities, probabilities)
    return {
        "log_loss": -np.log(np.maximum(of_gold, _LEAST)),
        "brier": np.maximum(squares - 2 * of_gold + 1, 0.0),
    }


def top_k_accuracy(
    gold: Sequence[str],
    log_probs: npt.ArrayLike,
    labels: Sequence[str],
    *,
    k: int,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Share of rows whose gold label is among the k most probable.

    Of labels with equal scores the earlier one is higher. A gold label that was not scored (NaN or
    -inf) counts as missed: with unvisited labels the number is a lower bound. The interval is
    Wilson's, or a clustered bootstrap. Arguments and errors as :func:`log_loss`.

    Raises:
        ValueError: Also when k is not in 1 to the number of labels.
    """
    if not 1 <= k <= len(labels):
        raise ValueError(f"top {k} of {len(labels)} labels")
    codes, scores = _matched(gold, log_probs, labels)
    of_gold = scores[np.arange(len(codes)), codes][:, None]
    before = np.arange(scores.shape[1])[None] < codes[:, None]
    rank = (scores > of_gold).sum(axis=1) + ((scores == of_gold) & before).sum(axis=1)
    return share((rank < k) & np.isfinite(of_gold[:, 0]), clusters=clusters, seed=seed)


def _matched(
    gold: Sequence[str], log_probs: npt.ArrayLike, labels: Sequence[str]
) -> tuple[Ints, Floats]:
    codes, scores = gold_codes(gold, labels), normalised(log_probs)
    if scores.shape != (len(codes), len(labels)):
        raise ValueError(
            f"log-probabilities of shape {scores.shape} for {len(codes)} rows, {len(labels)} labels"
        )
    return codes, scores
