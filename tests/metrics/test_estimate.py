"""Intervals: known values, bounds, and how often they hold the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.metrics.estimate import (
    RESAMPLES,
    Estimate,
    Groups,
    bootstrap,
    distance,
    mean,
    means,
    resamples,
    share,
    wilson,
)

_REPEATS = 300


def _covered(truth: float, estimate_of: Callable[[np.random.Generator], Estimate]) -> float:
    rng = np.random.default_rng(0)
    estimates = [estimate_of(rng) for _ in range(_REPEATS)]
    return float(np.mean([e.low <= truth <= e.high for e in estimates]))


def test_wilson_interval_of_a_textbook_case() -> None:
    # 85 of 100: Wilson's interval without continuity correction is 0.7672 to 0.9069.
    estimate = wilson(85, 100)
    assert (estimate.low, estimate.high) == pytest.approx((0.7672, 0.9069), abs=5e-4)


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.98])
def test_wilson_holds_its_level(truth: float) -> None:
    covered = _covered(truth, lambda rng: wilson(float(rng.binomial(60, truth)), 60))
    assert 0.91 <= covered <= 1


def test_the_bootstrap_of_a_mean_holds_its_level() -> None:
    covered = _covered(1.0, lambda rng: mean(rng.exponential(size=150)))
    assert 0.90 <= covered <= 0.98


def _templated(rng: np.random.Generator) -> tuple[list[bool], list[int]]:
    """Sixty items, three rows each; the rows of an item are right or wrong together."""
    items = rng.random(60) < 0.8
    return np.repeat(items, 3).tolist(), np.repeat(np.arange(60), 3).tolist()


def test_clusters_restore_the_level_that_repeated_rows_break() -> None:
    def clustered(rng: np.random.Generator) -> Estimate:
        hits, clusters = _templated(rng)
        return share(hits, clusters=clusters)

    assert _covered(0.8, clustered) >= 0.91
    assert _covered(0.8, lambda rng: share(_templated(rng)[0])) < 0.85


def test_one_row_a_cluster_is_the_plain_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=50)
    clustered, plain = mean(values, clusters=range(50)), mean(values)
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high))


def test_clusters_without_spread_still_have_an_interval() -> None:
    assert share([True] * 12, clusters=[i // 3 for i in range(12)]) == wilson(4, 4)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(0, 5))
def test_the_interval_holds_the_value(values: list[float], seed: int) -> None:
    estimate = mean(values, seed=seed)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.value == pytest.approx(float(np.mean(values)), abs=1e-9)
    assert estimate == mean(values, seed=seed)


def test_equal_rows_put_together_have_the_same_interval() -> None:
    values = np.repeat([0.0, 1.0, 2.0], [50, 30, 20])
    together = bootstrap(means({"m": np.array([0.0, 1.0, 2.0])}), np.array([50, 30, 20]))["m"]
    apart = mean(values)
    assert together.value == apart.value
    assert (together.low, together.high) == pytest.approx((apart.low, apart.high), abs=0.02)


def test_large_data_are_resampled_in_chunks() -> None:
    chunks = [chunk.shape for chunk in resamples(10_000)]
    assert len(chunks) > 1
    assert sum(size for size, _ in chunks) == RESAMPLES


def test_every_resample_has_as_many_rows_as_the_data() -> None:
    assert all((chunk.sum(axis=1) == 37).all() for chunk in resamples(37))
    assert all((chunk.sum(axis=1) == 37).all() for chunk in resamples(np.array([30, 7])))


def test_resamples_that_do_not_define_a_metric_are_left_out() -> None:
    def first_row_only(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"m": np.where(weights[:, 0] > 0, weights[:, 0], np.nan)}

    estimate = bootstrap(first_row_only, 5)["m"]
    assert estimate.value == 1
    assert estimate.low >= 1


@pytest.mark.parametrize(
    ("clusters", "expected"), [(None, "no rows"), ([1], "0 rows but 1 clusters")]
)
def test_wrong_input_is_refused(clusters: list[int] | None, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        share([], clusters=clusters)


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
