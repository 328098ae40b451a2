"""Metrics of gold and predicted labels, and where a classifier errs.

A prediction that is no label, or None (a generated answer that names none), is *off-list*: it is
wrong for its gold label, and a false positive of none; Matthews' coefficient and kappa count all
off-list answers as one more label that is never gold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multitask.metrics.intervals import (
    Bools,
    Confusion,
    Floats,
    Interval,
    Ints,
    bootstrap_arrays,
    ratio,
    unit_weights,
    wilson,
)
from multitask.metrics.registry import Predictions, metric

_CLASSIFICATION = ("classification",)
_CLOSED = ("classification", "multiple_choice")


@metric(name="accuracy", title="Accuracy", kinds=_CLOSED)
def accuracy(predictions: Predictions) -> Bools:
    """Share of rows whose prediction is the gold answer."""
    pairs = zip(predictions.gold, predictions.predicted, strict=True)
    return np.array([gold == predicted for gold, predicted in pairs], dtype=np.bool_)


def _mean_defined(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1).astype(float))


@metric(name="macro_f1", title="Macro-F1", kinds=_CLOSED, of="confusion")
def macro_f1(counts: Confusion) -> Floats:
    """Unweighted mean of the F1 of every label that occurs in gold or predictions.

    As scikit-learn's ``f1_score(average="macro")`` over the labels present: a label that is
    neither gold nor predicted says nothing and is left out.
    """
    return _mean_defined(counts.f1)


@metric(name="balanced_accuracy", title="Balanced accuracy", kinds=_CLASSIFICATION, of="confusion")
def balanced_accuracy(counts: Confusion) -> Floats:
    """Unweighted mean of the recall of every label that occurs in gold (Brodersen et al., 2010).

    As scikit-learn's ``balanced_accuracy_score``, not adjusted for chance.
    """
    return _mean_defined(counts.recall)


@metric(name="weighted_f1", title="Weighted F1", kinds=_CLASSIFICATION, of="confusion")
def weighted_f1(counts: Confusion) -> Floats:
    """Mean F1 of the labels, weighted by their gold rows.

    As scikit-learn's ``f1_score(average="weighted")``.
    """
    return ratio((np.nan_to_num(counts.f1) * counts.gold).sum(axis=1), counts.rows)


@metric(name="micro_f1", title="Micro-F1", kinds=_CLASSIFICATION, of="confusion")
def micro_f1(counts: Confusion) -> Floats:
    """F1 of the true positives, false positives and false negatives of all labels together.

    As scikit-learn's ``f1_score(labels=labels, average="micro")``. It equals accuracy unless some
    predictions are off-list: those are false negatives and no false positives.
    """
    return ratio(2 * counts.hits.sum(axis=1), counts.rows + counts.predicted.sum(axis=1))


@metric(
    name="mcc", title="Matthews correlation", unit="number", kinds=_CLASSIFICATION, of="confusion"
)
def mcc(counts: Confusion) -> Floats:
    """Matthews correlation coefficient for any number of labels, -1 to 1.

    Gorodkin's R_K (J. Gorodkin, 2004, "Comparing two K-category assignments by a K-category
    correlation coefficient"), as scikit-learn's ``matthews_corrcoef``: 0 where all rows have one
    gold label or one prediction.
    """
    rows = counts.rows
    off_list = rows - counts.predicted.sum(axis=1)
    agreement = counts.hits.sum(axis=1) * rows - (counts.gold * counts.predicted).sum(axis=1)
    predicted = rows**2 - (counts.predicted**2).sum(axis=1) - off_list**2
    gold = rows**2 - (counts.gold**2).sum(axis=1)
    # A hair below 0 by rounding would make the root NaN.
    return ratio(agreement, np.sqrt(np.maximum(predicted * gold, 0.0)), otherwise=0.0)


@metric(
    name="cohen_kappa", title="Cohen's kappa", unit="number", kinds=_CLASSIFICATION, of="confusion"
)
def cohen_kappa(counts: Confusion) -> Floats:
    """Agreement beyond chance (J. Cohen, 1960, "A coefficient of agreement for nominal scales").

    As scikit-learn's ``cohen_kappa_score``, except where every row has one and the same gold and
    predicted label: chance alone then agrees fully, and kappa, undefined, is given as 0.
    """
    by_chance = (counts.gold * counts.predicted).sum(axis=1) / counts.rows**2
    agreement = counts.hits.sum(axis=1) / counts.rows
    return ratio(agreement - by_chance, 1 - by_chance, otherwise=0.0)


def confusion_matrix(predictions: Predictions) -> Ints:
    """Rows of each gold label that were answered with each label.

    Returns:
        Counts of shape (labels, labels + 1): gold label by predicted label, in label order; the
        last column counts off-list answers.
    """
    size = len(predictions.labels)
    codes = predictions.gold_codes * (size + 1) + predictions.predicted_codes
    counts = np.bincount(codes, minlength=size * (size + 1))
    return counts.reshape(size, size + 1).astype(np.int64)


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
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None


def per_label(predictions: Predictions) -> list[LabelScores]:
    """Precision, recall and F1 of every label, in label order.

    Precision and recall have Wilson intervals, F1 a bootstrap one; where rows repeat items, all
    three are bootstraps over the resamples that have the label.
    """
    counts, rows = predictions.confusion
    items = predictions.items if isinstance(rows, int) else None
    whole = counts(unit_weights(rows))

    def statistics(weights: Floats) -> dict[str, Floats]:
        found = counts(weights)
        return {"precision": found.precision, "recall": found.recall, "f1": found.f1}

    value, low, high = bootstrap_arrays(statistics, rows, items, width=len(predictions.labels))

    def interval(name: str, i: int, hits: float, of: float) -> Interval | None:
        if not of:
            return None
        if items is None and name != "f1":
            return wilson(hits, of)
        return Interval(float(value[name][i]), float(low[name][i]), float(high[name][i]))

    scores = []
    for i, label in enumerate(predictions.labels):
        hits, support = float(whole.hits[0, i]), float(whole.gold[0, i])
        answered = float(whole.predicted[0, i])
        scores.append(
            LabelScores(
                label=label,
                support=int(support),
                predicted=int(answered),
                precision=interval("precision", i, hits, answered),
                recall=interval("recall", i, hits, support),
                f1=interval("f1", i, hits, support + answered),
            )
        )
    return scores
