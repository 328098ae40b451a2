"""Normal forms and fingerprints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.data.normal_form import (
    draw,
    fingerprints,
    letters_only,
    normalised,
    without_punctuation,
)
from multitask.tasks import Example


@pytest.mark.parametrize(
    ("text", "plain", "bare", "letters"),
    [
        ("  Where's   my\tCARD? ", "where's my card?", "wheres my card", "wheresmycard"),
        ("top-up", "top-up", "topup", "topup"),
        ("\uff34\uff4f\uff50 \u2460", "top 1", "top 1", "top1"),  # full width, circled digit
        ("STRA\u00dfE \u201cx\u201d", "strasse \u201cx\u201d", "strasse x", "strassex"),
        ("???", "???", "", "???"),
    ],
)
def test_forms(text: str, plain: str, bare: str, letters: str) -> None:
    assert (normalised(text), without_punctuation(text), letters_only(text)) == (
        plain,
        bare,
        letters,
    )


@given(st.text(max_size=40))
def test_forms_are_idempotent(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    assert letters_only(letters_only(text)) == letters_only(text)


@given(st.text(alphabet="aB -?", max_size=12), st.text(alphabet="aB -?", max_size=12))
def test_equal_letters_and_only_those_have_equal_fingerprints(one: str, two: str) -> None:
    first, second = fingerprints([Example("1", one, "x"), Example("2", two, "y")])
    assert (first == second) == (letters_only(one) == letters_only(two))


def test_options_count_but_not_their_order() -> None:
    rows = [
        Example("1", "q", "A", ("red", "blue")),
        Example("2", "q", "B", ("blue", "red")),
        Example("3", "q", "A", ("red", "green")),
    ]
    keys = fingerprints(rows)
    assert keys[0] == keys[1] != keys[2]


def test_draws_are_spread_evenly_and_depend_on_the_seed() -> None:
    values = np.arange(10_000, dtype=np.uint64)
    numbers = draw(values, 1)
    assert len(np.unique(numbers)) == 10_000
    assert abs(float(np.mean(numbers < np.uint64(2**63))) - 0.5) < 0.02
    assert (numbers != draw(values, 2)).all()
