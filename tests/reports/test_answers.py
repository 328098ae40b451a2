"""Listed predictions: mistakes first, and never more than fits."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.reports.answers import Answer, Answers, Listing


def _answers(found: list[tuple[bool, float]]) -> Answers:
    rows = [
        Answer(f"row {i}", "text", "a", "a" if right else "b", right, confidence, (), None)
        for i, (right, confidence) in enumerate(found)
    ]
    return Answers(rows, ["a"] * len(rows), [row.predicted for row in rows], None, False)


ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=40)


def _shown(listing: Listing) -> list[tuple[str, str, str]]:
    """Text, right label and predicted label of every listed row, as the page's script reads it."""
    found = json.loads(listing.json)
    assert len(found["rows"]) == listing.rows
    return [(row[0], found["names"][row[1]], found["names"][row[2]]) for row in found["rows"]]


@settings(deadline=None)
@given(ROWS, st.integers(0, 2000))
def test_no_right_answer_is_listed_while_a_wrong_one_is_left_out(
    found: list[tuple[bool, float]], size: int
) -> None:
    answers = _answers(found)
    listed = _shown(answers.listed(size))
    wrong = sum(not row.right for row in answers.rows)
    assert sum(gold != said for _, gold, said in listed) == min(wrong, len(listed))


@settings(deadline=None)
@given(ROWS, st.integers(0, 2000))
def test_listed_rows_fit_the_size(found: list[tuple[bool, float]], size: int) -> None:
    listing = _answers(found).listed(size)
    assert len(listing.json) <= size + len('{"names":[],"rows":[]}')


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=8))
def test_every_text_comes_back_as_it_was(rows: list[tuple[str, str, str]]) -> None:
    made = [
        Answer(f"{i}", text, gold, said, gold == said, 0.5, ((said, 0.5),), None)
        for i, (text, gold, said) in enumerate(rows)
    ]
    listing = Answers(made, [], [], None, False).listed(10**6)
    assert sorted(_shown(listing)) == sorted(rows)
    assert not set("<>&\u2028\u2029") & set(listing.json)


def test_the_size_is_that_of_the_escaped_text() -> None:
    rows = [Answer(f"{i}", "<" * 500, "a", "b", False, 0.5, (), None) for i in range(10)]
    listed = Answers(rows, ["a"] * 10, ["b"] * 10, None, False).listed(10_000)
    assert listed.rows == 3


@settings(deadline=None)
@given(ROWS)
def test_mistakes_are_wrong_and_the_surest(found: list[tuple[bool, float]]) -> None:
    shown = _answers(found).mistakes(3)
    wrong = sorted((confidence for right, confidence in found if not right), reverse=True)
    assert [row.confidence for row in shown] == wrong[:3]


def test_positions_are_shares_of_all_rows() -> None:
    answers = _answers([(True, 0.5), (True, 0.5), (False, 0.5), (True, 0.5)])
    assert answers.positions(["a", "b", "c"]) == [("a", 1, 0.75), ("b", 0, 0.25), ("c", 0, 0)]
