"""Two systems on the same rows: is one better, by how much, and where.

McNemar's exact test and Benjamini and Hochberg's adjustment are scipy's. Ours is what it lacks:
McNemar's mid-p, random exchanges of whole items, Holm's adjustment, and differences of metrics from
one bootstrap over pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from multitask.metrics.classification import macro_f1
from multitask.metrics.intervals import (
    SEED,
    Bools,
    Floats,
    Interval,
    Items,
    Statistics,
    bootstrap,
    cells,
    counter,
    if_repeated,
    item_codes,
    items_at,
    means,
    quantiles,
    ratio,
    resamples,
    unit_weights,
)
from multitask.metrics.registry import Predictions

Method = Literal["mid-p", "exact"]

_FLIPS = 99_999


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of whether two systems are right equally often.

    Attributes:
        only_first: Rows that only the first system has right.
        only_second: Rows that only the second has right.
        p_value: Chance of a difference at least this large if there were none.
        method: ``mid-p`` or ``exact`` for McNemar's test, ``sign-flip`` where rows repeat items.
    """

    only_first: int
    only_second: int
    p_value: float
    method: Literal["mid-p", "exact", "sign-flip"]


def paired_test(
    first: npt.ArrayLike, second: npt.ArrayLike, *, method: Method, items: Items | None = None
) -> PairedTest:
    """Test which rows two systems have right: McNemar's test, or random exchanges of items.

    Args:
        first: Whether the first system is right on each row.
        second: Whether the second is.
        method: Which of McNemar's tests, see :func:`mcnemar`.
        items: The item of every row, where rows repeat one: then :func:`sign_flip`.

    Raises:
        ValueError: There are no rows, or the sequences differ in length.
    """
    one, other = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    if one.shape != other.shape or not len(one):
        raise ValueError(f"{len(one)} rows of one system, {len(other)} of the other")
    difference = one - other
    only_first, only_second = int((difference > 0).sum()), int((difference < 0).sum())
    if items is not None:
        p_value = sign_flip(difference, items)
        return PairedTest(only_first, only_second, p_value, "sign-flip")
    return PairedTest(only_first, only_second, mcnemar(only_first, only_second, method), method)


def mcnemar(only_first: int, only_second: int, method: Method = "mid-p") -> float:
    """The p-value of McNemar's test, from the rows that exactly one of two systems has right.

    If the systems were equally good, each such row would fall to either with probability 1/2
    (Q. McNemar, 1947). Both methods take the binomial distribution, for many rows and few.
    ``exact`` never rejects too often, hence too rarely with few rows; ``mid-p`` counts half of the
    observed outcome's probability and keeps its level better (Fagerland, Lydersen and Laake, 2013,
    "The McNemar test for binary matched-pairs data: mid-p and asymptotic are better than exact
    conditional"). Neither holds where several rows come from one item.
    """
    from scipy.stats import binom, binomtest

    n = only_first + only_second
    if n == 0:
        return 1.0
    exact = float(binomtest(only_first, n).pvalue)
    if method == "exact" or only_first == only_second:
        return exact
    return exact - float(binom.pmf(only_first, n, 0.5))


def sign_flip(difference: npt.ArrayLike, items: Items) -> float:
    """The p-value of a paired permutation test for rows of which several come from one item.

    If the systems were equally good, exchanging their answers to all rows of an item would change
    nothing: the sign of each item's difference in right answers is random (R. A. Fisher, 1935,
    "The design of experiments"). 99,999 random exchanges give the p-value, which is thus at least
    0.00001. With one row per item this is McNemar's exact test.
    """
    column = np.asarray(difference)
    sums = np.bincount(item_codes(items, len(column)), weights=column)
    # Items of the same size of difference flip alike: draw how many of them turn positive.
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    positive = np.random.default_rng(SEED).binomial(counts, 0.5, size=(_FLIPS, len(counts)))
    flipped = np.abs((2 * positive - counts) @ sizes)
    extreme = int((flipped >= abs(sums.sum()) - 1e-9).sum())
    return (1 + extreme) / (1 + _FLIPS)


def differences(
    first: Statistics, second: Statistics, rows: int | npt.NDArray[np.int64], items: Items | None
) -> dict[str, Interval]:
    """The differences of two systems' numbers, first minus second, on the same resampled rows.

    A percentile bootstrap over pairs (Efron and Tibshirani, 1993, "An introduction to the
    bootstrap"). An interval without 0 says that the difference is not chance at the 5 % level.
    """

    def statistics(weights: Floats) -> Mapping[str, Floats]:
        one, other = first(weights), second(weights)
        return {name: one[name] - other[name] for name in one}

    return bootstrap(statistics, rows, items)


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same rows.

    Attributes:
        differences: Of each metric, first minus second.
        test: Whether they are right equally often.
    """

    differences: dict[str, Interval]
    test: PairedTest


def compare(first: Predictions, second: Predictions, *, method: Method = "mid-p") -> Comparison:
    """Compare two systems' labels of the same rows: accuracy, macro-F1, and the test.

    Raises:
        ValueError: A gold answer is no label.
    """
    gold, one, other = first.gold_codes, first.predicted_codes, second.predicted_codes
    classes, items = len(first.labels), first.items
    width = classes + 1
    # Rows with the same gold label and the same two answers count alike.
    codes, rows = cells((gold * width + one) * width + other, items)
    g, pair = codes // width**2, (codes // width % width, codes % width)

    def numbers(predicted: npt.NDArray[np.int64]) -> Statistics:
        count = counter(g, predicted, classes)

        def statistics(weights: Floats) -> dict[str, Floats]:
            confusion = count(weights)
            accuracy = confusion.hits.sum(axis=1) / confusion.rows
            return {"accuracy": accuracy, "macro_f1": macro_f1.function(confusion)}

        return statistics

    found = differences(numbers(pair[0]), numbers(pair[1]), rows, items)
    return Comparison(found, paired_test(one == gold, other == gold, method=method, items=items))


def compare_hits(
    first: Bools, second: Bools, *, method: Method = "mid-p", items: Items | None = None
) -> Comparison:
    """Compare which rows two systems have right, where there are no labels."""
    codes, rows = cells(2 * (~first).astype(np.int64) + ~second, items)
    one, other = means({"accuracy": 1 - codes // 2}), means({"accuracy": 1 - codes % 2})
    test = paired_test(first, second, method=method, items=items)
    return Comparison(differences(one, other, rows, items), test)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust the p-values of several tests, such as one per task, so that they hold together.

    S. Holm (1979), "A simple sequentially rejective multiple test procedure": the smallest of m is
    multiplied by m, the next by m - 1, and none is smaller than the one before. Rejecting
    where the adjusted value is at most 0.05 makes one false claim or more in at most 5 % of such
    families of tests, however the tests depend on each other. The order stays as given.

    Raises:
        ValueError: A p-value is outside 0 to 1.
    """
    for name, value in p_values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name!r} has a p-value of {value}")
    adjusted, least = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


@dataclass(frozen=True)
class RecallChange:
    """How one label's recall differs between two systems.

    Attributes:
        label: The label.
        rows: Its gold rows.
        first: Rows of these that the first system has right.
        difference: Recall of the first minus that of the second, with a paired bootstrap interval.
        test: Whether they are right equally often on these rows.
        p_adjusted: The test's p-value by Benjamini and Hochberg over the labels with rows.
    """

    label: str
    rows: int
    first: int
    difference: Interval
    test: PairedTest
    p_adjusted: float


def recall_changes(first: Predictions, second: Predictions) -> list[RecallChange]:
    """Find the labels whose recall two systems differ in.

    Each label is tested on its own gold rows with McNemar's exact test (where rows repeat items, by
    random exchanges). A label of 40 rows that loses 5 of them and gains none has p = 0.06: single
    labels show large losses only. The p-values are adjusted over all labels with rows (Y. Benjamini
    and Y. Hochberg, 1995, "Controlling the false discovery rate"): of what is called found at 0.05,
    at most 5 % are false in expectation, as labels have different rows.

    Returns:
        The labels with at least one row that only one system has right, the greatest loss of the
        first system first.
    """
    from scipy.stats import false_discovery_control

    by_label: dict[str, list[int]] = {}
    for place, label in enumerate(first.gold):
        by_label.setdefault(label, []).append(place)
    hits = [
        np.array([g == p for g, p in zip(first.gold, side.predicted, strict=True)])
        for side in (first, second)
    ]
    tests, items_of = {}, {}
    for label, at in by_label.items():
        items = items_at(first.items, at)
        items_of[label] = None if items is None else if_repeated(items)
        tests[label] = paired_test(hits[0][at], hits[1][at], method="exact", items=items_of[label])
    adjusted = false_discovery_control([test.p_value for test in tests.values()])
    found = []
    for (label, at), p_adjusted in zip(by_label.items(), adjusted, strict=True):
        test = tests[label]
        if not test.only_first and not test.only_second:
            continue
        one, other = (means({"recall": side[at]}) for side in hits)
        change = differences(one, other, len(at), items_of[label])["recall"]
        right = int(hits[0][at].sum())
        found.append(RecallChange(label, len(at), right, change, test, float(p_adjusted)))
    return sorted(found, key=lambda change: (change.difference.value, change.label))


@dataclass(frozen=True)
class PairedHits:
    """Which rows of a task two systems have right, and the item of every row if rows repeat one."""

    first: Sequence[bool] | Bools
    second: Sequence[bool] | Bools
    items: Items | None = None


def relative_gain(tasks: Mapping[str, PairedHits]) -> Interval | None:
    """The mean over tasks of the relative gain in accuracy of the first system over the second.

    The measure of K.-K. Maninis, I. Radosavovic and I. Kokkinos (2019), "Attentive Single-Tasking
    of Multiple Tasks", equation 2: every task counts alike, whatever its accuracy. The interval is
    a percentile bootstrap over the rows of each task, tasks drawn independently of each other; it
    speaks of these tasks, not of others.

    Returns:
        The gain as a fraction: 0.02 is 2 % of the second's accuracy. None where the second has
        no row right in some task, or there is no task.

    Raises:
        ValueError: A task has no rows, or not as many of both systems.
    """
    values, draws = [], []
    for number, hits in enumerate(tasks.values()):
        if len(hits.first) != len(hits.second):
            raise ValueError(f"{len(hits.first)} rows of one system, {len(hits.second)} of another")
        columns = [np.asarray(side, dtype=np.float64) for side in (hits.first, hits.second)]
        values.append(float(_gain(unit_weights(len(columns[0])), columns)[0]))
        # A seed of its own: tasks of as many rows must not have their resamples in common.
        drawn = resamples(len(columns[0]), hits.items, seed=SEED + number)
        draws.append(np.concatenate([_gain(weights, columns) for weights in drawn]))
    if not values or not np.isfinite(values).all():
        return None
    value = float(np.mean(values))
    low, high = quantiles(np.mean(draws, axis=0))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _gain(weights: Floats, columns: Sequence[Floats]) -> Floats:
    one, other = weights @ columns[0], weights @ columns[1]
    return ratio(one - other, other)
