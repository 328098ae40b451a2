"""Checks that neither phrasing nor position gives the answer away."""

from __future__ import annotations

import random

import pytest

from multitask.data.options import alarms, independence_p_value, uniform_p_value


def test_a_gold_that_always_comes_first_is_an_alarm() -> None:
    assert uniform_p_value(["A"] * 100, "ABCD") < 1e-6
    assert uniform_p_value(list("ABCD") * 25, "ABCD") > 0.9


def test_a_template_that_predicts_the_answer_is_an_alarm() -> None:
    rng = random.Random(0)
    answers = [rng.choice("ab") for _ in range(400)]
    assert independence_p_value(["ab".index(a) for a in answers], answers) < 1e-6
    free = [rng.choice([0, 1, 2]) for _ in range(400)]
    p = independence_p_value(free, answers)
    assert p > 0.001
    assert alarms({"bad": 1e-9, "good": p}) == ["bad"]


def test_nothing_to_compare_is_no_alarm() -> None:
    assert independence_p_value([0] * 10, list("ab") * 5) == 1.0
    assert independence_p_value([0, 1], ["a", "b"]) == 1.0


def test_p_values_equal_scipy_s() -> None:
    from scipy.stats import chi2_contingency, chisquare

    rng = random.Random(1)
    gold = [rng.choice("aab") for _ in range(300)]
    kinds = [rng.choice([0, 1, 1, 2]) for _ in range(300)]
    table = [[sum(k == i and g == a for k, g in zip(kinds, gold, strict=True)) for a in "ab"]
             for i in range(3)]  # fmt: skip
    assert independence_p_value(kinds, gold) == pytest.approx(chi2_contingency(table).pvalue)
    counts = [gold.count(a) for a in "ab"]
    assert uniform_p_value(gold, "ab") == pytest.approx(chisquare(counts).pvalue)
