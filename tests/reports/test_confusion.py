"""The confusion matrix: every row counted once, confused labels beside each other."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.reports.confusion import MOST_LABELS, confusion

LABELS = [f"label {i}" for i in range(9)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1))
def test_every_row_is_in_one_cell(pairs: list[tuple[str, str]]) -> None:
    found = confusion([g for g, _ in pairs], [p for _, p in pairs], LABELS)
    assert found is not None
    shown = sorted(
        (found.labels[cell.row], found.labels[cell.column])
        for cell in found.cells
        for _ in range(cell.count)
    )
    assert shown == sorted(pairs)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1))
def test_shares_of_a_label_sum_to_one(pairs: list[tuple[str, str]]) -> None:
    found = confusion([g for g, _ in pairs], [p for _, p in pairs], LABELS)
    assert found is not None
    for row in {cell.row for cell in found.cells}:
        assert abs(sum(cell.share for cell in found.cells if cell.row == row) - 1) < 1e-9


def test_labels_that_are_confused_stand_together() -> None:
    gold = LABELS * 10
    swapped = {LABELS[0]: LABELS[7], LABELS[7]: LABELS[0], LABELS[2]: LABELS[8]}
    found = confusion(gold + LABELS, [swapped.get(g, g) for g in gold] + LABELS, LABELS)
    assert found is not None
    places = {label: place for place, label in enumerate(found.labels)}
    assert abs(places[LABELS[0]] - places[LABELS[7]]) == 1
    assert abs(places[LABELS[2]] - places[LABELS[8]]) == 1


def test_of_many_labels_the_most_confused_are_shown() -> None:
    labels = [f"label {i:03}" for i in range(MOST_LABELS + 30)]
    wrong = {labels[-1]: labels[-2], labels[-2]: labels[-1]}
    found = confusion(labels, [wrong.get(label, label) for label in labels], labels)
    assert found is not None
    assert found.left_out == 30
    assert set(labels[-2:]) <= set(found.labels)


def test_without_rows_there_is_no_matrix() -> None:
    assert confusion([], [], LABELS) is None
