"""Exact match and token F1 of generated texts."""

from __future__ import annotations

import pytest

from multitask.metrics.generation import exact_match, token_f1


def test_exact_match_ignores_case_and_white_space() -> None:
    assert exact_match(["Paris", "two words", "a"], [" paris", "two  words", "b"]).value == (
        pytest.approx(2 / 3)
    )


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("the cat sat", "The cat, sat!", 1.0),
        ("the cat sat", "the dog sat", 2 / 3),
        ("a a b", "a b b", 2 / 3),  # repeated words count as often as both have them
        ("x", "y", 0.0),
        ("x", "", 0.0),
        ("!", "", 1.0),
    ],
)
def test_token_f1(gold: str, predicted: str, expected: float) -> None:
    assert token_f1([gold], [predicted]).value == pytest.approx(expected)


def test_the_interval_holds_the_value() -> None:
    estimate = token_f1(["a b", "c d", "e f"], ["a b", "c x", "y z"])
    assert estimate.low <= estimate.value <= estimate.high


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="0 references"):
        token_f1([], [])
