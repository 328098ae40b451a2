"""Intervals: known values, bounds, and how often they hold the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from multitask.metrics.intervals import (
    RESAMPLES,
    Groups,
    Interval,
    Items,
    bootstrap,
    cells,
    distance,
    means,
    resamples,
    share,
    wilson,
)

_REPEATS = 300


def _mean(values: object, items: Items | None = None) -> Interval:
    column = np.asarray(values, dtype=float)
    return bootstrap(means({"mean": column}), len(column), items)["mean"]


def _covered(truth: float, interval_of: Callable[[np.random.Generator], Interval]) -> float:
    rng = np.random.default_rng(0)
    found = [interval_of(rng) for _ in range(_REPEATS)]
    return float(np.mean([e.low <= truth <= e.high for e in found]))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_that_of_scipy(case: tuple[int, int]) -> None:
    expected = binomtest(*case).proportion_ci(method="wilson")
    found = wilson(*case)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.98])
def test_wilson_holds_its_level(truth: float) -> None:
    covered = _covered(truth, lambda rng: wilson(float(rng.binomial(60, truth)), 60))
    assert 0.91 <= covered <= 1


def test_the_bootstrap_of_a_mean_holds_its_level() -> None:
    covered = _covered(1.0, lambda rng: _mean(rng.exponential(size=150)))
    assert 0.90 <= covered <= 0.98


def _templated(rng: np.random.Generator) -> tuple[list[bool], list[int]]:
    """Sixty items, three rows each; the rows of an item are right or wrong together."""
    items = rng.random(60) < 0.8
    return np.repeat(items, 3).tolist(), np.repeat(np.arange(60), 3).tolist()


def test_items_restore_the_level_that_repeated_rows_break() -> None:
    assert _covered(0.8, lambda rng: share(*_templated(rng))) >= 0.91
    assert _covered(0.8, lambda rng: share(_templated(rng)[0])) < 0.85


def test_one_row_an_item_is_the_plain_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=50)
    with_items, plain = _mean(values, range(50)), _mean(values)
    assert (with_items.low, with_items.high) == pytest.approx((plain.low, plain.high))


def test_items_without_spread_still_have_an_interval() -> None:
    assert share([True] * 12, [i // 3 for i in range(12)]) == wilson(4, 4)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_the_interval_holds_the_value_and_is_seeded(values: list[float]) -> None:
    found = _mean(values)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(float(np.mean(values)), abs=1e-9)
    assert found == _mean(values)


def test_rows_in_cells_have_the_same_interval() -> None:
    values = np.repeat([0.0, 1.0, 2.0], [50, 30, 20])
    codes, rows = cells(values.astype(int))
    together = bootstrap(means({"m": codes}), rows)["m"]
    apart = _mean(values)
    assert together.value == apart.value
    assert (together.low, together.high) == pytest.approx((apart.low, apart.high), abs=0.02)


def test_rows_stay_apart_where_cells_save_nothing_or_items_repeat() -> None:
    assert cells(np.arange(50))[1] == 50
    assert cells(np.zeros(50, dtype=int), [i // 2 for i in range(50)])[1] == 50


def test_large_data_are_resampled_in_chunks() -> None:
    chunks = [chunk.shape for chunk in resamples(10_000)]
    assert len(chunks) > 1
    assert sum(size for size, _ in chunks) == RESAMPLES


def test_every_resample_has_as_many_rows_as_the_data() -> None:
    assert all((chunk.sum(axis=1) == 37).all() for chunk in resamples(37))
    assert all((chunk.sum(axis=1) == 37).all() for chunk in resamples(np.array([30, 7])))


def test_resamples_that_do_not_define_a_number_are_left_out() -> None:
    def first_row_only(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"m": np.where(weights[:, 0] > 0, weights[:, 0], np.nan)}

    found = bootstrap(first_row_only, 5)["m"]
    assert found.value == 1
    assert found.low >= 1


@pytest.mark.parametrize(("items", "expected"), [(None, "no rows"), ([1], "0 rows but 1 items")])
def test_wrong_input_is_refused(items: list[int] | None, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        share([], items)


def test_a_distance_within_the_noise_reaches_down_to_zero() -> None:
    null, draws = np.linspace(0, 0.1, 100), np.linspace(0.06, 0.2, 100)
    assert distance(0.08, draws, null).low == 0
    assert distance(0.15, draws, null).low > 0


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 2**32 - 1), st.booleans()
)
def test_group_sums_equal_the_sums_of_each_group(
    codes: list[int], seed: int, ordered: bool
) -> None:
    groups = np.array(sorted(codes) if ordered else codes)
    matrix = np.random.default_rng(seed).random((3, len(groups)))
    expected = np.stack([matrix[:, groups == k].sum(axis=1) for k in range(5)], axis=1)
    assert Groups(groups, 5).sums(matrix) == pytest.approx(expected)
