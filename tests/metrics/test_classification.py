"""Metrics against scikit-learn and known values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from multitask.metrics import accuracy, macro_f1

answers = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40
)


@given(answers)
def test_values_equal_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    assert accuracy(gold, predicted).value == pytest.approx(accuracy_score(gold, predicted))
    expected = f1_score(gold, predicted, average="macro")
    assert macro_f1(gold, predicted, "abcd").value == pytest.approx(expected)


@given(answers)
def test_intervals_hold_the_value_and_stay_in_bounds(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    estimate = accuracy(gold, predicted)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_wilson_interval_of_a_textbook_case() -> None:
    # 85 of 100: Wilson's interval without continuity correction is 0.7672 to 0.9069.
    estimate = accuracy(["a"] * 100, ["a"] * 85 + ["b"] * 15)
    assert estimate.low == pytest.approx(0.7672, abs=5e-4)
    assert estimate.high == pytest.approx(0.9069, abs=5e-4)


def test_the_bootstrap_is_seeded() -> None:
    gold, predicted = list("aabbccab"), list("aabbcaab")
    assert macro_f1(gold, predicted, "abc") == macro_f1(gold, predicted, "abc")
    assert macro_f1(gold, predicted, "abc", seed=1) != macro_f1(gold, predicted, "abc", seed=2)


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [([], [], "no rows"), (["a"], [], "1 gold answers"), (["x"], ["a"], "not in the label space")],
)
def test_wrong_input_is_refused(gold: list[str], predicted: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        macro_f1(gold, predicted, "ab")
