"""Gains and losses by label, and over tasks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, false_discovery_control

from multitask.metrics.comparison import benjamini_hochberg, holm
from multitask.metrics.transfer import PairedHits, recall_changes, relative_gain

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(P_VALUES)
def test_benjamini_hochberg_is_that_of_scipy(values: list[float]) -> None:
    found = benjamini_hochberg({str(i): p for i, p in enumerate(values)})
    assert list(found.values()) == pytest.approx(list(false_discovery_control(values)))


@given(P_VALUES)
def test_it_is_never_stricter_than_holm(values: list[float]) -> None:
    named = {str(i): p for i, p in enumerate(values)}
    by_holm, found = holm(named), benjamini_hochberg(named)
    assert all(found[name] <= by_holm[name] + 1e-12 for name in named)


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_p_value_beyond_0_to_1_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="p-value"):
        benjamini_hochberg({"a": p})


def _three_labels() -> tuple[list[str], list[str], list[str]]:
    """`a` loses 8 of 10 rows, `b` gains 1 of 10, `c` stays as it is."""
    gold = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    second = ["a"] * 10 + ["b"] * 9 + ["c"] + ["c"] * 5 + ["a"] * 5
    first = ["b"] * 8 + ["a"] * 2 + ["b"] * 10 + ["c"] * 5 + ["a"] * 5
    return gold, first, second


def test_the_greatest_loss_comes_first_and_what_stays_is_left_out() -> None:
    found = recall_changes(*_three_labels())
    assert [(c.label, c.rows, c.difference.value) for c in found] == [
        ("a", 10, pytest.approx(-0.8)),
        ("b", 10, pytest.approx(0.1)),
    ]
    assert [c.first for c in found] == [2, 10]


def test_labels_are_tested_exactly_and_adjusted_over_all_with_rows() -> None:
    loss = recall_changes(*_three_labels())[0]
    assert loss.test.p_value == pytest.approx(binomtest(0, 8).pvalue)
    assert (loss.test.only_first, loss.test.only_second) == (0, 8)
    assert loss.p_adjusted == pytest.approx(3 * loss.test.p_value)


def test_the_recall_interval_holds_the_difference() -> None:
    for change in recall_changes(*_three_labels()):
        d = change.difference
        assert -1 <= d.low <= d.value <= d.high <= 1


def test_rows_of_one_item_are_no_further_evidence() -> None:
    gold, first, second = _three_labels()
    alone = recall_changes(gold, first, second)[0]
    items = [f"{i}" for i in range(30)]
    four = recall_changes(gold * 4, first * 4, second * 4, clusters=items * 4)[0]
    assert four.test.method == "sign-flip"
    assert four.test.p_value == pytest.approx(alone.test.p_value, rel=0.2)


def test_the_relative_gain_is_the_mean_over_tasks() -> None:
    # 0.6 over 0.5 is +20 %, 0.2 over 0.4 is -50 %.
    tasks = {
        "a": PairedHits([True] * 6 + [False] * 4, [True] * 5 + [False] * 5),
        "b": PairedHits([True] * 2 + [False] * 8, [True] * 4 + [False] * 6),
    }
    found = relative_gain(tasks)
    assert found is not None
    assert found.value == pytest.approx(-0.15)
    assert found.low < -0.15 < found.high


def test_the_same_answers_gain_nothing_for_sure() -> None:
    hits = [True, False, True, True]
    found = relative_gain({"a": PairedHits(hits, hits)})
    assert found is not None
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_gain_over_nothing_has_no_value() -> None:
    tasks = {"a": PairedHits([True], [False]), "b": PairedHits([True], [True])}
    assert relative_gain(tasks) is None
    assert relative_gain({}) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    # Two tasks of 300 rows; true accuracies 0.66 over 0.60 (+10 %) and 0.45 over 0.50 (-10 %).
    inside = 0
    for seed in range(200):
        tasks = {}
        for name, one, other in (("a", 0.66, 0.60), ("b", 0.45, 0.50)):
            shared = rng.random(300)
            tasks[name] = PairedHits((shared < one).tolist(), (shared < other).tolist())
        found = relative_gain(tasks, seed=seed)
        assert found is not None
        inside += found.low <= 0 <= found.high
    assert 180 <= inside <= 199
