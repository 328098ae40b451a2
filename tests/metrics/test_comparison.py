"""Tests and differences of two systems on the same rows."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from multitask.metrics.classification import count_metrics
from multitask.metrics.comparison import compare, holm, mcnemar, paired_bootstrap, sign_flip_test
from multitask.metrics.estimate import means

Answers = tuple[list[str], list[str], list[str]]


def _discordant(only_first: int, only_second: int, both: int = 5) -> Answers:
    first = ["a"] * (only_first + both) + ["b"] * only_second
    second = ["b"] * only_first + ["a"] * (both + only_second)
    return ["a"] * len(first), first, second


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_exact_test_equals_the_binomial_test(only_first: int, only_second: int) -> None:
    found = mcnemar(*_discordant(only_first, only_second), method="exact")
    n = only_first + only_second
    expected = binomtest(only_first, n, 0.5).pvalue if n else 1.0
    assert found.p_value == pytest.approx(expected)
    assert (found.only_first, found.only_second) == (only_first, only_second)


def test_mid_p_counts_half_of_the_observed_outcome() -> None:
    # 2 of 8: 2 * (P(0) + P(1) + P(2) / 2) = 2 * (1 + 8 + 14) / 256.
    found = mcnemar(*_discordant(2, 6))
    assert (found.p_value, found.method) == (pytest.approx(46 / 256), "mid-p")


@given(st.integers(0, 30), st.integers(0, 30))
def test_mid_p_is_between_zero_and_the_exact_value(only_first: int, only_second: int) -> None:
    answers = _discordant(only_first, only_second)
    assert 0 < mcnemar(*answers).p_value <= mcnemar(*answers, method="exact").p_value <= 1
    gold, first, second = answers
    assert mcnemar(gold, first, second).p_value == mcnemar(gold, second, first).p_value


@pytest.mark.parametrize("only_first", [3, 8, 10])
def test_with_one_row_an_item_sign_flips_are_the_exact_test(only_first: int) -> None:
    answers = _discordant(only_first, 20 - only_first)
    found = sign_flip_test(*answers, clusters=range(len(answers[0])))
    exact = mcnemar(*answers, method="exact").p_value
    assert found.p_value == pytest.approx(exact, abs=0.006)


def test_repeated_rows_are_no_further_evidence() -> None:
    gold, first, second = _discordant(2, 6)
    clusters = [i % len(gold) for i in range(4 * len(gold))]
    repeated = sign_flip_test(gold * 4, first * 4, second * 4, clusters=clusters).p_value
    assert repeated == pytest.approx(mcnemar(gold, first, second, method="exact").p_value, abs=0.01)
    assert mcnemar(gold * 4, first * 4, second * 4).p_value < 0.01


@pytest.mark.parametrize("method", ["mid-p", "exact"])
def test_equal_systems_are_told_apart_no_more_often_than_the_level(
    method: Literal["mid-p", "exact"],
) -> None:
    # Exactly: 40 rows, each discordant with probability 0.3, then for either system.
    level = 0.0
    for n in range(41):
        for k in range(n + 1):
            if mcnemar(*_discordant(k, n - k), method=method).p_value <= 0.05:
                level += binom.pmf(n, 40, 0.3) * binom.pmf(k, n, 0.5)
    assert 0.01 < level <= 0.05


@pytest.mark.parametrize("clustered", [False, True])
def test_differences_are_those_of_the_metrics(clustered: bool) -> None:
    rng = np.random.default_rng(0)
    gold, one, two = (rng.choice(list("abc"), 90).tolist() for _ in range(3))
    clusters = [i // 3 for i in range(90)] if clustered else None
    found = compare(gold, one, two, "abc", names=("accuracy", "mcc"), clusters=clusters)
    first, second = count_metrics(gold, one, "abc"), count_metrics(gold, two, "abc")
    assert list(found.differences) == ["accuracy", "mcc"]
    for name, estimate in found.differences.items():
        assert estimate.value == pytest.approx(first[name].value - second[name].value)
        assert estimate.low <= estimate.value <= estimate.high
    assert found.test.method == ("sign-flip" if clustered else "mid-p")


def test_pairing_narrows_the_difference_of_systems_that_agree() -> None:
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=200)
    better = losses - 0.1 + rng.normal(scale=0.01, size=200)
    found = paired_bootstrap(means({"loss": better}), means({"loss": losses}), 200)["loss"]
    assert found.low <= -0.1 <= found.high
    assert found.high - found.low < 0.01


def test_the_interval_of_a_difference_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(150):
        gold = ["a"] * 200
        first = np.where(rng.random(200) < 0.9, "a", "b").tolist()
        second = np.where(rng.random(200) < 0.8, "a", "b").tolist()
        found = compare(gold, first, second, "ab", names=["accuracy"]).differences["accuracy"]
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
    with pytest.raises(ValueError, match="2 gold answers but 1"):
        mcnemar(["a", "b"], ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="has a p-value of 2"):
        holm({"a": 2.0})
    with pytest.raises(KeyError, match="acuracy"):
        compare(["a"], ["a"], ["a"], "ab", names=["acuracy"])
