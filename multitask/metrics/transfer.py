"""What a task gains or loses by another training: label by label, and over all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multitask.metrics.comparison import (
    PairedTest,
    benjamini_hochberg,
    mcnemar,
    paired_bootstrap,
    sign_flip_test,
)
from multitask.metrics.counts import require_rows
from multitask.metrics.estimate import (
    Clusters,
    Estimate,
    Floats,
    if_repeated,
    items_at,
    means,
    quantiles,
    resamples,
    unit_weights,
)


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
    difference: Estimate
    test: PairedTest
    p_adjusted: float


def recall_changes(
    gold: Sequence[str],
    first: Sequence[str | None],
    second: Sequence[str | None],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> list[RecallChange]:
    """Find the labels whose recall two systems differ in.

    Each label is tested on its own gold rows with McNemar's exact test (with clusters, by random
    exchanges). A label of 40 rows that loses 5 of them and gains none has p = 0.06: single labels
    show large losses only.

    Args:
        gold: Gold labels.
        first: The first system's answers.
        second: The second's.
        clusters: The item of every row, where items have several.
        seed: Seeds the resampling.

    Returns:
        The labels with at least one row that only one system has right, the greatest loss of the
        first system first. The p-values are adjusted over all labels with rows.

    Raises:
        ValueError: There are no rows, or the sequences differ in length.
    """
    require_rows(gold, first)
    require_rows(gold, second)
    by_label: dict[str, list[int]] = {}
    for place, label in enumerate(gold):
        by_label.setdefault(label, []).append(place)
    tests = {
        label: _test(label, [first[i] for i in at], [second[i] for i in at], _at(clusters, at))
        for label, at in by_label.items()
    }
    adjusted = benjamini_hochberg({label: test.p_value for label, test in tests.items()})
    found = []
    for label, at in by_label.items():
        if not tests[label].only_first and not tests[label].only_second:
            continue
        hits = [np.array([answers[i] == label for i in at]) for answers in (first, second)]
        differences = paired_bootstrap(
            means({"recall": hits[0]}),
            means({"recall": hits[1]}),
            len(at),
            clusters=_at(clusters, at),
            seed=seed,
        )
        found.append(
            RecallChange(
                label,
                len(at),
                int(hits[0].sum()),
                differences["recall"],
                tests[label],
                adjusted[label],
            )
        )
    return sorted(found, key=lambda change: (change.difference.value, change.label))


def _at(clusters: Clusters | None, places: Sequence[int]) -> Clusters | None:
    """The items of some rows; None where each has one of its own."""
    items = items_at(clusters, places)
    return None if items is None else if_repeated(items)


def _test(
    label: str,
    first: Sequence[str | None],
    second: Sequence[str | None],
    clusters: Clusters | None,
) -> PairedTest:
    gold = [label] * len(first)
    if clusters is None:
        return mcnemar(gold, first, second, method="exact")
    return sign_flip_test(gold, first, second, clusters=clusters)


@dataclass(frozen=True)
class PairedHits:
    """Which rows of a task two systems have right.

    Attributes:
        first: Of the first, a row a place.
        second: Of the second.
        clusters: The item of every row, where items have several.
    """

    first: Sequence[bool]
    second: Sequence[bool]
    clusters: Clusters | None = None


def relative_gain(tasks: Mapping[str, PairedHits], *, seed: int = 0) -> Estimate | None:
    """The mean over tasks of the relative gain in accuracy of the first system over the second.

    The measure of K.-K. Maninis, I. Radosavovic and I. Kokkinos (2019), "Attentive Single-Tasking
    of Multiple Tasks", equation 2: every task counts alike, whatever its accuracy. The interval is
    a percentile bootstrap over the rows of each task, tasks drawn independently of each other; it
    speaks of these tasks, not of others.

    Args:
        tasks: The tasks.
        seed: Seeds the resampling.

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
        drawn = resamples(len(columns[0]), clusters=hits.clusters, seed=seed + number)
        draws.append(np.concatenate([_gain(weights, columns) for weights in drawn]))
    if not values or not np.isfinite(values).all():
        return None
    value = float(np.mean(values))
    low, high = quantiles(np.mean(draws, axis=0))
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _gain(weights: Floats, columns: Sequence[Floats]) -> Floats:
    one, other = weights @ columns[0], weights @ columns[1]
    gain: Floats = np.full(len(one), np.nan)
    np.divide(one - other, other, out=gain, where=other > 0)
    return gain
