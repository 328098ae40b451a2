"""Rows in columns are the examples they were made of."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.data.rows import Rows, spaced, text_column
from multitask.tasks import Example

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
EXAMPLES = st.lists(
    st.builds(Example, TEXT, TEXT, TEXT, st.lists(TEXT, max_size=3).map(tuple), TEXT), max_size=8
)


@settings(deadline=None)
@given(EXAMPLES, EXAMPLES, st.data())
def test_columns_hold_what_examples_say(
    one: list[Example], two: list[Example], data: st.DataObject
) -> None:
    rows, every = Rows.concat([Rows.of(one), Rows.of(two)]), one + two
    assert list(rows) == every
    assert [rows[i] for i in range(len(every))] == every
    assert rows.labels == [example.label for example in every]
    names = sorted({example.label for example in every})
    places = data.draw(st.lists(st.sampled_from(range(len(every))) if every else st.nothing()))
    part = rows.take(np.array(places, dtype=int))
    assert list(part) == [every[i] for i in places]
    assert [names.index(label) for label in rows.labels] == rows.ranks.tolist()
    assert list(rows[1:3]) == every[1:3]
    assert rows[1:3].labels == [example.label for example in every[1:3]]
    some = places[:1]
    changed = list(every)
    for place in some:
        changed[place] = Example("new", "x", "y")
    assert list(rows.put(some, [changed[place] for place in some])) == changed


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("a \t\x1f\x85\u3000\u200b\xe9"), max_size=4)))
def test_spaced_texts_are_those_that_strip_changes(texts: list[str]) -> None:
    column = text_column(["x", *texts]).slice(1)
    expected = [i for i, text in enumerate(texts) if not text or text.strip() != text]
    assert spaced(column).tolist() == expected
