"""Where a classifier errs: the confusion matrix, and precision, recall and F1 of every label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multitask.metrics.counts import counter, exchangeable, label_codes
from multitask.metrics.estimate import (
    Clusters,
    Estimate,
    Floats,
    Ints,
    bootstrap_arrays,
    unit_weights,
    wilson,
)


def confusion_matrix(
    gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]
) -> Ints:
    """Rows of each gold label that were answered with each label.

    Returns:
        Counts of shape (labels, labels + 1): gold label by predicted label, in label order; the
        last column counts off-list answers.

    Raises:
        ValueError: As :func:`label_codes`.
    """
    g, p = label_codes(gold, predicted, labels)
    width = len(labels) + 1
    counts = np.bincount(g * width + p, minlength=len(labels) * width)
    return counts.reshape(len(labels), width).astype(np.int64)


@dataclass(frozen=True)
class LabelScores:
    """How one label fares.

    Attributes:
        label: The label.
        support: Its gold rows.
        predicted: Rows answered with it.
        precision: Share of those that are right; None where nothing was answered with it.
        recall: Share of its gold rows that are found; None where it has none.
        f1: Harmonic mean of the two; None where the label is neither gold nor predicted.
    """

    label: str
    support: int
    predicted: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None


def per_label(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> list[LabelScores]:
    """Precision, recall and F1 of every label, in label order.

    Precision and recall have Wilson intervals, F1 a bootstrap one; with clusters all three are
    clustered bootstraps over the resamples that have the label.

    Raises:
        ValueError: As :func:`label_codes`, or there is not one cluster per row.
    """
    g, p = label_codes(gold, predicted, labels)
    g, p, rows = exchangeable(g, p, len(labels), clusters)
    counts = counter(g, p, len(labels))
    whole = counts(unit_weights(rows))

    def statistics(weights: Floats) -> dict[str, Floats]:
        found = counts(weights)
        return {"precision": found.precision, "recall": found.recall, "f1": found.f1}

    value, low, high = bootstrap_arrays(
        statistics, rows, clusters=clusters, seed=seed, width=len(labels)
    )

    def estimate(name: str, i: int, hits: float, of: float) -> Estimate | None:
        if not of:
            return None
        if clusters is None and name != "f1":
            return wilson(hits, of)
        return Estimate(float(value[name][i]), float(low[name][i]), float(high[name][i]))

    scores = []
    for i, label in enumerate(labels):
        hits, support = float(whole.hits[0, i]), float(whole.gold[0, i])
        answered = float(whole.predicted[0, i])
        scores.append(
            LabelScores(
                label=label,
                support=int(support),
                predicted=int(answered),
                precision=estimate("precision", i, hits, answered),
                recall=estimate("recall", i, hits, support),
                f1=estimate("f1", i, hits, support + answered),
            )
        )
    return scores
