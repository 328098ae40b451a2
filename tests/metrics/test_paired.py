"""Tests and differences of two systems on the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, false_discovery_control

from multitask.metrics import METRICS, Predictions, compute
from multitask.metrics.intervals import means
from multitask.metrics.paired import (
    Method,
    PairedHits,
    compare,
    compare_hits,
    differences,
    holm,
    mcnemar,
    paired_test,
    recall_changes,
    relative_gain,
    sign_flip,
)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_exact_test_equals_the_binomial_test(only_first: int, only_second: int) -> None:
    n = only_first + only_second
    expected = binomtest(only_first, n, 0.5).pvalue if n else 1.0
    assert mcnemar(only_first, only_second, "exact") == pytest.approx(expected)


def test_mid_p_counts_half_of_the_observed_outcome() -> None:
    # 2 of 8: 2 * (P(0) + P(1) + P(2) / 2) = 2 * (1 + 8 + 14) / 256.
    assert mcnemar(2, 6) == pytest.approx(46 / 256)


@given(st.integers(0, 30), st.integers(0, 30))
def test_mid_p_is_by_its_definition(one: int, other: int) -> None:
    fewer, n = min(one, other), one + other
    expected = 2 * (binom.cdf(fewer - 1, n, 0.5) + binom.pmf(fewer, n, 0.5) / 2)
    found = mcnemar(one, other)
    assert found == pytest.approx(min(1.0, expected) if n else 1.0)
    assert 0 < found <= mcnemar(one, other, "exact") <= 1
    assert found == pytest.approx(mcnemar(other, one))


def _difference(only_first: int, only_second: int, both: int = 5) -> list[int]:
    return [1] * only_first + [0] * both + [-1] * only_second


@pytest.mark.parametrize("only_first", [3, 8, 10])
def test_with_one_row_an_item_sign_flips_are_the_exact_test(only_first: int) -> None:
    found = sign_flip(_difference(only_first, 20 - only_first), range(25))
    exact = mcnemar(only_first, 20 - only_first, "exact")
    assert found == pytest.approx(exact, abs=0.006)


def test_repeated_rows_are_no_further_evidence() -> None:
    difference = _difference(2, 6)
    items = list(range(len(difference))) * 4
    assert sign_flip(difference * 4, items) == pytest.approx(mcnemar(2, 6, "exact"), abs=0.01)
    assert mcnemar(8, 24) < 0.01


@pytest.mark.parametrize("method", ["mid-p", "exact"])
def test_equal_systems_are_told_apart_no_more_often_than_the_level(method: Method) -> None:
    # Exactly: 40 rows, each discordant with probability 0.3, then for either system.
    level = 0.0
    for n in range(41):
        for k in range(n + 1):
            if mcnemar(k, n - k, method) <= 0.05:
                level += binom.pmf(n, 40, 0.3) * binom.pmf(k, n, 0.5)
    assert 0.01 < level <= 0.05


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("rows", [90, 900])
def test_differences_are_those_of_the_metrics(repeated: bool, rows: int) -> None:
    rng = np.random.default_rng(0)
    gold, *answers = (rng.choice(list("abc"), rows).tolist() for _ in range(3))
    items = [i // 3 for i in range(rows)] if repeated else None
    one, two = (Predictions(gold, side, "abc", items=items) for side in answers)
    found = compare(one, two)
    of_labels = [METRICS["accuracy"], METRICS["macro_f1"]]
    first, second = compute(one, of_labels), compute(two, of_labels)
    assert list(found.differences) == ["accuracy", "macro_f1"]
    for name, interval in found.differences.items():
        assert interval.value == pytest.approx(first[name].value - second[name].value)
        assert interval.low <= interval.value <= interval.high
    assert found.test.method == ("sign-flip" if repeated else "mid-p")
    right = [[g == p for g, p in zip(gold, side, strict=True)] for side in answers]
    assert found.test.only_first == sum(a and not b for a, b in zip(*right, strict=True))
    hits = compare_hits(*map(np.array, right), items=items)
    assert hits.test == found.test
    assert hits.differences["accuracy"].value == pytest.approx(found.differences["accuracy"].value)


def test_pairing_narrows_the_difference_of_systems_that_agree() -> None:
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=200)
    better = losses - 0.1 + rng.normal(scale=0.01, size=200)
    found = differences(means({"loss": better}), means({"loss": losses}), 200, None)["loss"]
    assert found.low <= -0.1 <= found.high
    assert found.high - found.low < 0.01


def test_the_interval_of_a_difference_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(150):
        found = compare_hits(rng.random(200) < 0.9, rng.random(200) < 0.8).differences["accuracy"]
        held += found.low <= 0.1 <= found.high
    assert 0.9 <= held / 150 <= 0.99


def test_holm_of_a_worked_example() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    given_ = {str(i): p for i, p in enumerate(p_values)}
    adjusted = holm(given_)
    for name, p in given_.items():
        assert p <= adjusted[name] <= min(1, p * len(given_)) + 1e-12
    ordered = sorted(given_, key=given_.__getitem__)
    assert [adjusted[n] for n in ordered] == sorted(adjusted.values())


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of one system, 1 of the other"):
        paired_test([True, False], [True], method="exact")
    with pytest.raises(ValueError, match="has a p-value of 2"):
        holm({"a": 2.0})


def _three_labels(times: int = 1) -> tuple[Predictions, Predictions]:
    """`a` loses 8 of 10 rows, `b` gains 1 of 10, `c` stays as it is."""
    gold = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    second = ["a"] * 10 + ["b"] * 9 + ["c"] + ["c"] * 5 + ["a"] * 5
    first = ["b"] * 8 + ["a"] * 2 + ["b"] * 10 + ["c"] * 5 + ["a"] * 5
    items = list(range(30)) * times if times > 1 else None
    one, other = (
        Predictions(gold * times, side * times, "abc", items=items) for side in (first, second)
    )
    return one, other


def test_the_greatest_loss_comes_first_and_what_stays_is_left_out() -> None:
    found = recall_changes(*_three_labels())
    assert [(c.label, c.rows, c.first, c.difference.value) for c in found] == [
        ("a", 10, 2, pytest.approx(-0.8)),
        ("b", 10, 10, pytest.approx(0.1)),
    ]
    assert all(-1 <= c.difference.low <= c.difference.high <= 1 for c in found)


def test_labels_are_tested_exactly_and_adjusted_over_all_with_rows() -> None:
    loss, gain = recall_changes(*_three_labels())
    tests = [binomtest(0, 8).pvalue, binomtest(1, 1).pvalue, 1.0]
    assert [c.test.p_value for c in (loss, gain)] == pytest.approx(tests[:2])
    assert (loss.test.only_first, loss.test.only_second) == (0, 8)
    assert [c.p_adjusted for c in (loss, gain)] == pytest.approx(
        false_discovery_control(tests)[:2].tolist()
    )


def test_rows_of_one_item_are_no_further_evidence() -> None:
    alone, four = recall_changes(*_three_labels())[0], recall_changes(*_three_labels(4))[0]
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


def test_the_interval_of_the_gain_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    # Two tasks of 300 rows; true accuracies 0.66 over 0.60 (+10 %) and 0.45 over 0.50 (-10 %).
    inside = 0
    for _ in range(200):
        tasks = {}
        for name, one, other in (("a", 0.66, 0.60), ("b", 0.45, 0.50)):
            shared = rng.random(300)
            tasks[name] = PairedHits(shared < one, shared < other)
        found = relative_gain(tasks)
        assert found is not None
        inside += found.low <= 0 <= found.high
    assert 180 <= inside <= 199
