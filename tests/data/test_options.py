"""Checks that neither phrasing nor position gives the answer away."""

from __future__ import annotations

import random

from multitask.data.options import alarms, independence_p_value, uniform_p_value


def test_a_gold_that_always_comes_first_is_an_alarm() -> None:
    assert uniform_p_value(["A"] * 100, "ABCD") < 1e-6
    assert uniform_p_value(list("ABCD") * 25, "ABCD") > 0.9


def test_a_template_that_predicts_the_answer_is_an_alarm() -> None:
    rng = random.Random(0)
    answers = [rng.choice("ab") for _ in range(400)]
    assert independence_p_value(answers, answers) < 1e-6
    free = [rng.choice("xyz") for _ in range(400)]
    p = independence_p_value(free, answers)
    assert p > 0.001
    assert alarms({"bad": 1e-9, "good": p}) == ["bad"]


def test_nothing_to_compare_is_no_alarm() -> None:
    assert independence_p_value(["only"] * 10, list("ab") * 5) == 1.0
    assert independence_p_value(["x", "y"], ["a", "b"]) == 1.0
