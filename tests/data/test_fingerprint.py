"""Normal forms and fingerprints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.data.fingerprint import (
    draw,
    fingerprints,
    letters_only,
    marks,
    normalised,
    without_punctuation,
)
from multitask.data.rows import Rows
from multitask.tasks import Example


@pytest.mark.parametrize(
    ("text", "plain", "bare", "letters"),
    [
        ("  Where's   my\tCARD? ", "where's my card?", "wheres my card", "wheresmycard"),
        ("top-up", "top-up", "topup", "topup"),
        ("\uff34\uff4f\uff50 \u2460", "top 1", "top 1", "top1"),  # full width, circled digit
        ("STRA\u00dfE \u201cx\u201d", "strasse \u201cx\u201d", "strasse x", "strassex"),
        ("???", "???", "", "???"),
        ("x\u00b2 zero\u200bwidth", "x\u00b2 zerowidth", "x\u00b2 zerowidth", "x\u00b2zerowidth"),
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


_texts = st.text(alphabet="aB -?\t\u00e9", max_size=12)


@given(_texts, _texts)
def test_rows_have_equal_fingerprints_where_their_forms_are_equal(one: str, two: str) -> None:
    found = fingerprints(Rows.of([Example("1", one, "x"), Example("2", two, "y")]))
    for form, (first, second) in zip((normalised, letters_only), found, strict=True):
        assert (first == second) == (form(one) == form(two))


@given(st.lists(_texts, min_size=1, max_size=5))
def test_rows_have_the_same_fingerprints_in_any_company(texts: list[str]) -> None:
    """Plain texts are hashed all at once, others one by one."""
    rows = [Example("1", text, "x") for text in texts]
    one, two = zip(*(fingerprints(Rows.of([row])) for row in rows), strict=True)
    every = fingerprints(Rows.of(rows))
    assert np.concatenate(one).tolist() == every[0].tolist()
    assert np.concatenate(two).tolist() == every[1].tolist()


@pytest.mark.parametrize(
    "different",
    [
        ("12 + 3", "1 + 23", "12 - 3", "12 3", "1.23", "123", "12:3"),
        ("C++", "C#", "C"),
        ("meal i :)", "meal i :(", "meal i", "meal i \U0001f600"),
        ("Great:)", "Great:("),
        ("2 * (3 + 4)", "2 * 3 + 4"),
        ("-5 degrees", "5 degrees"),
        ("a - b", "a b"),
        ("6/2", "62"),
        ("2\u2075", "25"),
        ("$5", "\u20ac5", "5%"),
        ("I <3 it", "I </3 it"),
        ("rm -f x", "rm f x"),
        ("5!", "5"),
    ],
)
def test_marks_tell_apart_what_letters_do_not(different: tuple[str, ...]) -> None:
    assert len({marks(text) for text in different}) == len(different)


@pytest.mark.parametrize(
    "same",
    [
        ("Is there a top-up fee?", "is there a top up fee", "Is there a top\u2010up fee"),
        ("My payment was reverted, why?", "My payment was reverted.  Why?"),
        ("Why didnt it go through", "Why didn`t it go through?", "Why didn\u2019t it go through"),
        ("Help - my card", "Help \u2013 my card", "help, my card!"),
        ("(at last)", "\u201cat last\u201d"),
        ("yes/no", "yes, no"),
        ("It cost 5.", "it cost 5"),
    ],
)
def test_marks_leave_out_what_changes_no_meaning(same: tuple[str, ...]) -> None:
    assert len({marks(text) for text in same}) == 1


def test_options_count_but_not_their_order() -> None:
    rows = [
        Example("1", "q", "A", ("red", "blue")),
        Example("2", "q", "B", ("blue", "red")),
        Example("3", "q", "A", ("red", "green")),
    ]
    keys = fingerprints(Rows.of(rows))[0]
    assert keys[0] == keys[1] != keys[2]


def test_draws_are_spread_evenly_and_depend_on_the_seed() -> None:
    values = np.arange(10_000, dtype=np.uint64)
    numbers = draw(values, 1)
    assert len(np.unique(numbers)) == 10_000
    assert abs(float(np.mean(numbers < np.uint64(2**63))) - 0.5) < 0.02
    assert (numbers != draw(values, 2)).all()
