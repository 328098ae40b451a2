"""Counts of a confusion matrix for many resamples at once, and the metrics that they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from multitask.metrics.estimate import Clusters, Floats, Groups, Ints, Statistics


@dataclass(frozen=True)
class Counts:
    """What the metrics of a confusion matrix need, for each of many resamples.

    Attributes:
        hits: Rows of each gold label that are predicted right, shape (resamples, labels).
        gold: Rows of each gold label, the same shape.
        predicted: Rows predicted as each label, the same shape.
        rows: All rows, shape (resamples,).
    """

    hits: Floats
    gold: Floats
    predicted: Floats
    rows: Floats

    @property
    def recall(self) -> Floats:
        """Share of each gold label's rows that are found; NaN where it has none."""
        return _ratio(self.hits, self.gold)

    @property
    def precision(self) -> Floats:
        """Share of the rows predicted as each label that are right; NaN where there are none."""
        return _ratio(self.hits, self.predicted)

    @property
    def f1(self) -> Floats:
        """F1 of each label; NaN where it is neither gold nor predicted."""
        # F1 = 2 TP / (2 TP + FP + FN), and the denominator is gold count + predicted count.
        return _ratio(2 * self.hits, self.gold + self.predicted)


def _ratio(numerator: Floats, denominator: Floats, otherwise: float = np.nan) -> Floats:
    out: Floats = np.full(np.broadcast(numerator, denominator).shape, otherwise)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def _mean_defined(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1).astype(float))


def _weighted_f1(counts: Counts) -> Floats:
    f1 = np.nan_to_num(counts.f1)
    return _ratio((f1 * counts.gold).sum(axis=1), counts.rows)


def _micro_f1(counts: Counts) -> Floats:
    hits = counts.hits.sum(axis=1)
    return _ratio(2 * hits, counts.rows + counts.predicted.sum(axis=1))


def _mcc(counts: Counts) -> Floats:
    rows = counts.rows
    off_list = rows - counts.predicted.sum(axis=1)
    agreement = counts.hits.sum(axis=1) * rows - (counts.gold * counts.predicted).sum(axis=1)
    predicted = rows**2 - (counts.predicted**2).sum(axis=1) - off_list**2
    gold = rows**2 - (counts.gold**2).sum(axis=1)
    # A hair below 0 by rounding would make the root NaN.
    return _ratio(agreement, np.sqrt(np.maximum(predicted * gold, 0.0)), otherwise=0.0)


def _kappa(counts: Counts) -> Floats:
    by_chance = (counts.gold * counts.predicted).sum(axis=1) / counts.rows**2
    agreement = counts.hits.sum(axis=1) / counts.rows
    return _ratio(agreement - by_chance, 1 - by_chance, otherwise=0.0)


COUNT_METRICS: dict[str, Callable[[Counts], Floats]] = {
    "accuracy": lambda counts: counts.hits.sum(axis=1) / counts.rows,
    "macro_f1": lambda counts: _mean_defined(counts.f1),
    "balanced_accuracy": lambda counts: _mean_defined(counts.recall),
    "weighted_f1": _weighted_f1,
    "micro_f1": _micro_f1,
    "mcc": _mcc,
    "cohen_kappa": _kappa,
}
"""Every metric that a confusion matrix gives, by name."""


def count_statistics(
    gold: Ints, predicted: Ints, classes: int, names: Iterable[str] = tuple(COUNT_METRICS)
) -> Statistics:
    """The metrics of a confusion matrix as statistics of row weights, for the bootstrap.

    Args:
        gold: Gold label of every row, 0 to ``classes - 1``.
        predicted: Predicted label of every row; ``classes`` where it is off-list.
        classes: How many labels there are.
        names: Keys of :data:`COUNT_METRICS`.
    """
    counts = counter(gold, predicted, classes)
    chosen = list(names)

    def statistics(weights: Floats) -> dict[str, Floats]:
        found = counts(weights)
        return {name: COUNT_METRICS[name](found) for name in chosen}

    return statistics


def counter(gold: Ints, predicted: Ints, classes: int) -> Callable[[Floats], Counts]:
    """Row weights, shape (resamples, rows), to the counts of each resample."""
    right = gold == predicted
    of_gold, of_hits = Groups(gold, classes), Groups(gold[right], classes)
    of_predicted = Groups(predicted, classes + 1)

    def counts(weights: Floats) -> Counts:
        return Counts(
            hits=of_hits.sums(weights[:, right]),
            gold=of_gold.sums(weights),
            predicted=of_predicted.sums(weights)[:, :classes],
            rows=weights.sum(axis=1),
        )

    return counts


def label_codes(
    gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]
) -> tuple[Ints, Ints]:
    """Gold and predicted labels as numbers in label order; off-list predictions are the last + 1.

    Raises:
        ValueError: There are no rows, the two differ in length, a gold answer is no label, or a
            label is there twice.
    """
    require_rows(gold, predicted)
    index = label_index(labels)
    off_list = len(labels)
    predicted_codes = [
        off_list if label is None else index.get(label, off_list) for label in predicted
    ]
    return gold_codes(gold, labels), np.array(predicted_codes, dtype=np.int64)


def gold_codes(gold: Sequence[str], labels: Sequence[str]) -> Ints:
    """Gold labels as numbers in label order.

    Raises:
        ValueError: There are no rows, a gold answer is no label, or a label is there twice.
    """
    require_rows(gold, gold)
    index = label_index(labels)
    unknown = set(gold) - index.keys()
    if unknown:
        raise ValueError(f"gold answers not in the label space: {sorted(unknown)[:3]}")
    return np.array([index[label] for label in gold], dtype=np.int64)


def label_index(labels: Sequence[str]) -> dict[str, int]:
    """The place of every label; ValueError where one is there twice."""
    index = {label: i for i, label in enumerate(labels)}
    if len(index) < len(labels):
        raise ValueError("the label space names a label twice")
    return index


def exchangeable(
    gold: Ints, predicted: Ints, classes: int, clusters: Clusters | None
) -> tuple[Ints, Ints, int | Ints]:
    """Put rows with the same gold and predicted label together, where that saves work.

    Without clusters such rows are exchangeable: a bootstrap may draw their counts at once.

    Returns:
        Gold and predicted labels, and the rows that each stands for, as the bootstrap takes them.
    """
    if clusters is None:
        cells, rows = np.unique(gold * (classes + 1) + predicted, return_counts=True)
        # A multinomial draw costs several times a row's draw.
        if 4 * len(cells) <= len(gold):
            return cells // (classes + 1), cells % (classes + 1), rows.astype(np.int64)
    return gold, predicted, len(gold)


def require_rows(gold: Sequence[str], predicted: Sequence[str | None]) -> int:
    """How many rows there are; ValueError for none, or where the two differ in length."""
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold answers but {len(predicted)} predictions")
    if not gold:
        raise ValueError("no rows")
    return len(gold)
