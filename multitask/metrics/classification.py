"""Metrics of gold and predicted labels, each with a 95 % interval.

Gold answers must be in the label space. A prediction that is not, or is None (a generated answer
that names no label), is *off-list*: it is wrong for its gold label, and a false positive of none;
Matthews' coefficient and kappa count all off-list answers as one more label that is never gold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from multitask.metrics.counts import (
    COUNT_METRICS,
    count_statistics,
    exchangeable,
    label_codes,
    require_rows,
)
from multitask.metrics.estimate import Clusters, Estimate, bootstrap, share


def accuracy(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Share of rows whose prediction is the gold answer, with the Wilson score interval.

    Args:
        gold: Gold answers.
        predicted: Predictions, in the same order.
        clusters: The item of every row, where items have several; the interval is then a
            clustered bootstrap.
        seed: Seeds the bootstrap.

    Raises:
        ValueError: There are no rows, or the sequences differ in length.
    """
    require_rows(gold, predicted)
    hits = [g == p for g, p in zip(gold, predicted, strict=True)]
    return share(hits, clusters=clusters, seed=seed)


def count_metrics(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    *,
    names: Iterable[str] = tuple(COUNT_METRICS),
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Several metrics of :data:`COUNT_METRICS` at once, with intervals from the same resamples.

    Accuracy's interval is Wilson's unless there are clusters.

    Raises:
        ValueError: As :func:`label_codes`, or there is not one cluster per row.
    """
    g, p, rows = exchangeable(*label_codes(gold, predicted, labels), len(labels), clusters)
    statistics = count_statistics(g, p, len(labels), list(names))
    found = bootstrap(statistics, rows, clusters=clusters, seed=seed, width=len(labels))
    if "accuracy" in found:
        found["accuracy"] = accuracy(gold, predicted, clusters=clusters, seed=seed)
    return found


def macro_f1(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Unweighted mean of the F1 of every label that occurs in gold or predictions.

    As scikit-learn's ``f1_score(average="macro")`` over the labels present: a label that is
    neither gold nor predicted says nothing and is left out. The interval is a percentile
    bootstrap over rows, or over clusters of them, with the estimate on all rows as the value.

    Args:
        gold: Gold answers.
        predicted: Predictions, in the same order.
        labels: The label space.
        clusters: The item of every row, where items have several.
        seed: Seeds the bootstrap.

    Raises:
        ValueError: As :func:`label_codes`, or there is not one cluster per row.
    """
    return _one("macro_f1", gold, predicted, labels, clusters, seed)


def balanced_accuracy(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Unweighted mean of the recall of every label that occurs in gold (Brodersen et al., 2010).

    As scikit-learn's ``balanced_accuracy_score``, not adjusted for chance. With one gold label it
    is that label's recall. Arguments and errors as :func:`macro_f1`.
    """
    return _one("balanced_accuracy", gold, predicted, labels, clusters, seed)


def weighted_f1(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Mean F1 of the labels, weighted by their gold rows.

    As scikit-learn's ``f1_score(average="weighted")``. Arguments and errors as :func:`macro_f1`.
    """
    return _one("weighted_f1", gold, predicted, labels, clusters, seed)


def micro_f1(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """F1 of the true positives, false positives and false negatives of all labels together.

    As scikit-learn's ``f1_score(labels=labels, average="micro")``. It equals accuracy unless some
    predictions are off-list: those are false negatives and no false positives. Arguments and
    errors as :func:`macro_f1`.
    """
    return _one("micro_f1", gold, predicted, labels, clusters, seed)


def mcc(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Matthews correlation coefficient for any number of labels, -1 to 1.

    Gorodkin's R_K (J. Gorodkin, 2004, "Comparing two K-category assignments by a K-category
    correlation coefficient"), as scikit-learn's ``matthews_corrcoef``: 0 where all rows have one
    gold label or one prediction. Arguments and errors as :func:`macro_f1`.
    """
    return _one("mcc", gold, predicted, labels, clusters, seed)


def cohen_kappa(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Agreement beyond chance (J. Cohen, 1960, "A coefficient of agreement for nominal scales").

    As scikit-learn's ``cohen_kappa_score``, except where every row has one and the same gold and
    predicted label: chance alone then agrees fully, and kappa, undefined, is given as 0.
    Arguments and errors as :func:`macro_f1`.
    """
    return _one("cohen_kappa", gold, predicted, labels, clusters, seed)


def _one(
    name: str,
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    clusters: Clusters | None,
    seed: int,
) -> Estimate:
    found = count_metrics(gold, predicted, labels, names=[name], clusters=clusters, seed=seed)
    return found[name]
