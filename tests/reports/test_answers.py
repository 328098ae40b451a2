"""Listed predictions: mistakes first, and never more than fits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.reports.answers import Answer, Answers


def _answers(found: list[tuple[bool, float]]) -> Answers:
    rows = [
        Answer(f"row {i}", "text", "a", "a" if right else "b", right, confidence, (), None)
        for i, (right, confidence) in enumerate(found)
    ]
    return Answers(rows, ["a"] * len(rows), [row.predicted for row in rows], None, False)


ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=40)


@settings(deadline=None)
@given(ROWS, st.integers(0, 5000))
def test_no_right_answer_is_listed_while_a_wrong_one_is_left_out(
    found: list[tuple[bool, float]], size: int
) -> None:
    answers = _answers(found)
    listed = answers.wrong_first(size)
    wrong = sum(not row.right for row in answers.rows)
    assert sum(not row.right for row in listed) == min(wrong, len(listed))


@settings(deadline=None)
@given(ROWS, st.integers(0, 5000))
def test_listed_rows_fit_the_size(found: list[tuple[bool, float]], size: int) -> None:
    listed = _answers(found).wrong_first(size)
    assert sum(len(row.text) + len(row.id) for row in listed) <= size


def test_the_size_is_that_of_the_escaped_text() -> None:
    rows = [Answer(f"{i}", "<" * 500, "a", "b", False, 0.5, (), None) for i in range(10)]
    listed = Answers(rows, ["a"] * 10, ["b"] * 10, None, False).wrong_first(10_000)
    assert len(listed) == 4


@settings(deadline=None)
@given(ROWS)
def test_mistakes_are_wrong_and_the_surest(found: list[tuple[bool, float]]) -> None:
    shown = _answers(found).mistakes(3)
    wrong = sorted((confidence for right, confidence in found if not right), reverse=True)
    assert [row.confidence for row in shown] == wrong[:3]


def test_positions_are_shares_of_all_rows() -> None:
    answers = _answers([(True, 0.5), (True, 0.5), (False, 0.5), (True, 0.5)])
    assert answers.positions(["a", "b", "c"]) == [("a", 1, 0.75), ("b", 0, 0.25), ("c", 0, 0)]
