"""Predictions in a report: mistakes first, never more than fits; confusions beside each other."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.reports.answers import MOST_LABELS, confusion, listed, mistakes, positions

Row = dict[str, Any]


def _row(id_: int, text: str, gold: str, said: str, sureness: float = 0.5) -> Row:
    return {
        "id": f"row {id_}",
        "text": text,
        "gold": gold,
        "predicted": said,
        "gold_name": gold,
        "predicted_name": said,
        "right": gold == said,
        "top": [(said, sureness)],
        "sureness": sureness,
    }


def _answers(found: list[tuple[bool, float]]) -> list[Row]:
    return [
        _row(i, "text", "a", "a" if right else "b", sureness)
        for i, (right, sureness) in enumerate(found)
    ]


ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=40)


def _shown(listing: tuple[int, str]) -> list[tuple[str, str, str]]:
    """Text, right label and predicted label of every listed row, as the page's script reads it."""
    count, text = listing
    found = json.loads(text)
    assert len(found["rows"]) == count
    return [(row[0], found["names"][row[1]], found["names"][row[2]]) for row in found["rows"]]


@settings(deadline=None)
@given(ROWS, st.integers(0, 2000))
def test_no_right_answer_is_listed_while_a_wrong_one_is_left_out(
    found: list[tuple[bool, float]], size: int
) -> None:
    answers = _answers(found)
    listing = listed(answers, size)
    shown = _shown(listing)
    wrong = sum(not row["right"] for row in answers)
    assert sum(gold != said for _, gold, said in shown) == min(wrong, len(shown))
    assert len(listing[1]) <= size + len('{"names":[],"rows":[]}')


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=8))
def test_every_text_comes_back_as_it_was(rows: list[tuple[str, str, str]]) -> None:
    listing = listed([_row(i, *row) for i, row in enumerate(rows)], 10**6)
    assert sorted(_shown(listing)) == sorted(rows)
    assert not set("<>&\u2028\u2029") & set(listing[1])


def test_the_size_is_that_of_the_escaped_text() -> None:
    assert listed([_row(i, "<" * 500, "a", "b") for i in range(10)], 10_000)[0] == 3


@settings(deadline=None)
@given(ROWS)
def test_mistakes_are_wrong_and_the_surest(found: list[tuple[bool, float]]) -> None:
    shown = mistakes(_answers(found), 3)
    wrong = sorted((sureness for right, sureness in found if not right), reverse=True)
    assert [row["sureness"] for row in shown] == wrong[:3]


def test_positions_are_shares_of_all_rows() -> None:
    answers = _answers([(True, 0.5), (True, 0.5), (False, 0.5), (True, 0.5)])
    assert positions(answers, ["a", "b", "c"]) == [("a", 1, 0.75), ("b", 0, 0.25), ("c", 0, 0)]


LABELS = [f"label {i}" for i in range(9)]
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1)


def _confusion(pairs: list[tuple[str, str]], labels: list[str]) -> Row:
    found = confusion([{"gold": gold, "predicted": said} for gold, said in pairs], labels)
    assert found is not None
    return found


@settings(deadline=None)
@given(PAIRS)
def test_every_row_is_in_one_cell_of_the_matrix(pairs: list[tuple[str, str]]) -> None:
    found = _confusion(pairs, LABELS)
    names = found["labels"]
    assert sorted(pairs) == sorted(
        (names[cell["row"]], names[cell["column"]])
        for cell in found["cells"]
        for _ in range(cell["rows"])
    )
    for row in {cell["row"] for cell in found["cells"]}:
        shares = [cell["share"] for cell in found["cells"] if cell["row"] == row]
        assert abs(sum(shares) - 1) < 1e-9
    assert sum(cell["rows"] for cell in found["mistaken"]) == sum(a != b for a, b in pairs)


def test_labels_that_are_confused_stand_together() -> None:
    swapped = {LABELS[0]: LABELS[7], LABELS[7]: LABELS[0], LABELS[2]: LABELS[8]}
    pairs = [(label, swapped.get(label, label)) for label in LABELS * 10]
    found = _confusion(pairs + [(label, label) for label in LABELS], LABELS)
    places = {label: place for place, label in enumerate(found["labels"])}
    assert abs(places[LABELS[0]] - places[LABELS[7]]) == 1
    assert abs(places[LABELS[2]] - places[LABELS[8]]) == 1


def test_of_many_labels_the_most_confused_are_shown() -> None:
    labels = [f"label {i:03}" for i in range(MOST_LABELS + 30)]
    wrong = {labels[-1]: labels[-2], labels[-2]: labels[-1]}
    found = _confusion([(label, wrong.get(label, label)) for label in labels], labels)
    assert found["left_out"] == 30
    assert set(labels[-2:]) <= set(found["labels"])


def test_without_rows_there_is_no_matrix() -> None:
    assert confusion([], LABELS) is None
