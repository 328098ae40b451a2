"""Two systems on the same rows: is one better, and by how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from multitask.metrics.counts import count_statistics, label_codes, require_rows
from multitask.metrics.estimate import (
    Clusters,
    Estimate,
    Floats,
    Ints,
    Statistics,
    bootstrap,
    cluster_codes,
)

Method = Literal["mid-p", "exact", "sign-flip"]

_FLIPS = 99_999


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of whether two systems are right equally often.

    Attributes:
        only_first: Rows that only the first system has right.
        only_second: Rows that only the second has right.
        p_value: Chance of a difference at least this large if there were none.
        method: ``mid-p`` or ``exact`` for McNemar's test, ``sign-flip`` where rows are clustered.
    """

    only_first: int
    only_second: int
    p_value: float
    method: Method


def mcnemar(
    gold: Sequence[str],
    first: Sequence[str | None],
    second: Sequence[str | None],
    *,
    method: Literal["mid-p", "exact"] = "mid-p",
) -> PairedTest:
    """McNemar's test on the rows that exactly one of two systems has right.

    If the systems were equally good, each such row would fall to either with probability 1/2
    (Q. McNemar, 1947). Both methods take the binomial distribution, for many rows and few.
    ``exact`` never rejects too often, hence too rarely with few rows; ``mid-p`` counts half of the
    observed outcome's probability and keeps its level better (Fagerland, Lydersen and Laake, 2013,
    "The McNemar test for binary matched-pairs data: mid-p and asymptotic are better than exact
    conditional"). Neither holds where several rows come from one item: see
    :func:`sign_flip_test`.

    Raises:
        ValueError: There are no rows, or the sequences differ in length.
    """
    difference = _difference(gold, first, second)
    only_first, only_second = int((difference > 0).sum()), int((difference < 0).sum())
    p_value = _binomial(only_first, only_second, mid=method == "mid-p")
    return PairedTest(only_first, only_second, p_value, method)


def _binomial(one: int, other: int, *, mid: bool) -> float:
    from scipy.special import bdtr  # scipy.stats would take a second to import

    fewer, n = min(one, other), one + other
    if n == 0:
        return 1.0
    tail = float(bdtr(fewer, n, 0.5))
    if mid:
        below = float(bdtr(fewer - 1, n, 0.5)) if fewer else 0.0
        tail = (tail + below) / 2
    return min(1.0, 2 * tail)


def sign_flip_test(
    gold: Sequence[str],
    first: Sequence[str | None],
    second: Sequence[str | None],
    *,
    clusters: Clusters,
    seed: int = 0,
) -> PairedTest:
    """A paired permutation test for rows of which several come from one item.

    If the systems were equally good, exchanging their answers to all rows of an item would change
    nothing: the sign of each item's difference in right answers is random (R. A. Fisher, 1935,
    "The design of experiments"). 99,999 random exchanges give the p-value, which is thus at least
    0.00001. With one row per item this is McNemar's exact test.

    Raises:
        ValueError: There are no rows, or the sequences differ in length.
    """
    difference = _difference(gold, first, second)
    items = cluster_codes(clusters, len(difference))
    sums = np.bincount(items, weights=difference)
    # Items of the same size of difference flip alike: draw how many of them turn positive.
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    rng = np.random.default_rng(seed)
    positive = rng.binomial(counts, 0.5, size=(_FLIPS, len(counts)))
    flipped = np.abs((2 * positive - counts) @ sizes)
    extreme = int((flipped >= abs(sums.sum()) - 1e-9).sum())
    return PairedTest(
        only_first=int((difference > 0).sum()),
        only_second=int((difference < 0).sum()),
        p_value=(1 + extreme) / (1 + _FLIPS),
        method="sign-flip",
    )


def _difference(
    gold: Sequence[str], first: Sequence[str | None], second: Sequence[str | None]
) -> npt.NDArray[np.int_]:
    require_rows(gold, first)
    require_rows(gold, second)
    return np.array([(a == g) - (b == g) for g, a, b in zip(gold, first, second, strict=True)])


def paired_bootstrap(
    first: Statistics,
    second: Statistics,
    rows: int | Ints,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The difference of any metrics, first minus second, each on the same resampled rows.

    A percentile bootstrap over pairs (Efron and Tibshirani, 1993, "An introduction to the
    bootstrap"). An interval without 0 says that the difference is not chance at the 5 % level.

    Args:
        first: Metrics of the first system, from :func:`~multitask.metrics.estimate.means` (a
            number per row) or :func:`~multitask.metrics.counts.count_statistics`.
        second: The same metrics of the second system.
        rows: How many rows there are, or how many each column stands for.
        clusters: The item of every row, where items have several.
        seed: Seeds the resampling.

    Raises:
        ValueError: There are no rows, or not one cluster per row.
    """

    def statistics(weights: Floats) -> Mapping[str, Floats]:
        one, other = first(weights), second(weights)
        return {name: one[name] - other[name] for name in one}

    return bootstrap(statistics, rows, clusters=clusters, seed=seed)


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same rows.

    Attributes:
        differences: Of each metric, first minus second.
        test: Whether they are right equally often.
    """

    differences: dict[str, Estimate]
    test: PairedTest


def compare(
    gold: Sequence[str],
    first: Sequence[str | None],
    second: Sequence[str | None],
    labels: Sequence[str],
    *,
    names: Iterable[str] = ("accuracy", "macro_f1"),
    method: Literal["mid-p", "exact"] = "mid-p",
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare the answers of two systems: differences of metrics, and McNemar's test.

    With clusters the test is :func:`sign_flip_test`.

    Args:
        gold: Gold labels.
        first: The first system's answers.
        second: The second system's answers to the same rows.
        labels: The label space.
        names: Keys of :data:`~multitask.metrics.counts.COUNT_METRICS`.
        method: Which of McNemar's tests, as in :func:`mcnemar`.
        clusters: The item of every row, where items have several.
        seed: Seeds the resampling.

    Raises:
        ValueError: There are no rows, the sequences differ in length, a gold answer is no label,
            or there is not one cluster per row.
    """
    chosen = list(names)
    g, one = label_codes(gold, first, labels)
    _, other = label_codes(gold, second, labels)
    classes, rows = len(labels), len(g)
    columns: int | Ints = rows
    if clusters is None:
        # Rows with the same gold label and the same two answers are exchangeable.
        width = classes + 1
        cells, counts = np.unique((g * width + one) * width + other, return_counts=True)
        if 4 * len(cells) <= rows:
            g, one, other = cells // width**2, cells // width % width, cells % width
            columns = counts.astype(np.int64)
    differences = paired_bootstrap(
        count_statistics(g, one, classes, chosen),
        count_statistics(g, other, classes, chosen),
        columns,
        clusters=clusters,
        seed=seed,
    )
    if clusters is None:
        return Comparison(differences, mcnemar(gold, first, second, method=method))
    test = sign_flip_test(gold, first, second, clusters=clusters, seed=seed)
    return Comparison(differences, test)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust the p-values of several tests, such as one per task, so that they hold together.

    S. Holm (1979), "A simple sequentially rejective multiple test procedure": the smallest of m is
    multiplied by m, the next by m - 1, and none is smaller than the one before. Rejecting
    where the adjusted value is at most 0.05 makes one false claim or more in at most 5 % of such
    families of tests, however the tests depend on each other.

    Returns:
        The adjusted p-values, in the order given.

    Raises:
        ValueError: A p-value is outside 0 to 1.
    """
    adjusted, least = {}, 0.0
    for place, name in enumerate(_ascending(p_values)):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def benjamini_hochberg(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust the p-values of many tests, such as one per label, that are a search.

    Y. Benjamini and Y. Hochberg (1995), "Controlling the false discovery rate": the k-th smallest
    of m is multiplied by m / k, and none is larger than the one after. Of what is called found
    where the adjusted value is at most 0.05, at most 5 % are false in expectation. Holds for
    independent tests, as those of labels are, whose rows are different ones.

    Returns:
        The adjusted p-values, in the order given.

    Raises:
        ValueError: A p-value is outside 0 to 1.
    """
    names, adjusted, most = _ascending(p_values), {}, 1.0
    for rank in range(len(names), 0, -1):
        most = min(most, len(names) / rank * p_values[names[rank - 1]])
        adjusted[names[rank - 1]] = most
    return {name: adjusted[name] for name in p_values}


def _ascending(p_values: Mapping[str, float]) -> list[str]:
    for name, value in p_values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name!r} has a p-value of {value}")
    return sorted(p_values, key=p_values.__getitem__)
