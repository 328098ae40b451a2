"""Near-duplicates: found where similarity is high, never claimed where it is not."""

from __future__ import annotations

import random
from collections import Counter

from multitask.data.leakage import (
    Groups,
    LeakageGate,
    Part,
    duplicates_within,
    jaccard,
    near_duplicates,
    own_shingles,
)
from multitask.data.rows import Rows
from multitask.task_spec import LeakageSpec
from multitask.tasks import Example

_WORDS = [
    "card",
    "bank",
    "money",
    "transfer",
    "lost",
    "arrived",
    "yesterday",
    "please",
    "help",
    "account",
    "top",
    "fee",
    "wait",
]


def _sentence(seed: int) -> str:
    return " ".join(random.Random(seed).choices(_WORDS, k=14))


def _row(number: int, text: str, label: str = "a", context: str = "") -> Example:
    return Example(str(number), text, label, context=context)


def _gate(*parts: Part) -> LeakageGate:
    gate = LeakageGate(parts, LeakageSpec(), seed=0)
    gate.run(parts)
    return gate


def test_pairs_equal_an_exhaustive_search() -> None:
    rows = [_row(i, _sentence(i)) for i in range(60)]
    rows += [_row(100 + i, _sentence(i) + " thanks") for i in range(0, 60, 3)]
    sets = own_shingles(rows)
    expected = {
        (i, j)
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if jaccard(sets[i], sets[j]) >= 0.8
    }
    found = near_duplicates(sets, threshold=0.8)
    assert len(expected) >= 15
    assert {(pair.first, pair.second) for pair in found} <= expected
    # MinHash may miss a pair at the threshold itself, but hardly one well above it.
    sure = {(i, j) for i, j in expected if jaccard(sets[i], sets[j]) >= 0.88}
    assert sure <= {(pair.first, pair.second) for pair in found}


def test_the_highest_thresholds_find_equal_sets_alone() -> None:
    sets = own_shingles([_row(i, _sentence(i // 2)) for i in range(20)])
    for threshold in (0.985, 1.0):
        found = near_duplicates(sets, threshold=threshold)
        assert {(pair.first, pair.second) for pair in found} == {
            (i, i + 1) for i in range(0, 20, 2)
        }


def test_what_rows_share_is_not_their_own() -> None:
    """A long instruction around a short input says nothing about two rows."""
    inputs = [f"{one} {two}" for one in _WORDS[:8] for two in _WORDS[:8] if one < two]
    fixed = [_row(i, f"Please translate this to pig latin: {x}") for i, x in enumerate(inputs)]
    apart = [_row(i, "Translate to pig latin.", context=x) for i, x in enumerate(inputs[:6])]
    for rows in (fixed, apart):
        assert near_duplicates(own_shingles(rows), threshold=0.8) == []


def test_groups_join_as_long_as_they_are_small() -> None:
    groups = Groups([Counter(a=1) for _ in range(5)], lambda _: 2)
    for one, two in ((3, 1), (4, 3), (0, 2), (1, 3)):
        groups.join(one, two)
    assert [groups.root(i) for i in range(5)] == [0, 1, 0, 1, 4]
    assert groups.cut == 1


def test_a_training_row_near_a_test_row_is_removed_and_its_level_told() -> None:
    test = Part("t", "test", Rows.of([_row(1, _sentence(1))]))
    train = Part("t", "train", Rows.of([_row(2, _sentence(1) + "s"), _row(3, _sentence(9))]))
    (leak,) = _gate(test, train).removed
    assert (leak.id, leak.level, leak.other_id) == ("2", "near", "1")
    assert [row.id for row in train.examples] == ["3"]
    assert len(train.keys) == len(train.letters) == len(train.groups) == 1


def test_near_rows_with_other_numbers_are_kept_and_reported() -> None:
    test = Part("t", "test", Rows.of([_row(1, _sentence(1) + " 12")]))
    train = Part("t", "train", Rows.of([_row(2, _sentence(1) + " 13"), _row(3, _sentence(9))]))
    gate = _gate(test, train)
    assert len(train.examples) == 2
    assert [(leak.id, leak.level) for leak in gate.reported] == [("2", "different marks")]
    assert gate.removed == []


def test_what_is_near_a_neighbour_only_is_kept() -> None:
    """A chain a-b-c is one group for the split, but c does not repeat a."""
    a = "x" * 60
    b, c = a + "abcdefgh", a + "abcdefghijklmnopqrstuvwxyz"
    one, two = Rows.of([_row(1, a)]), Rows.of([_row(2, b), _row(3, c)])
    parts = [Part("t", "test", one), Part("t", "train", two)]
    sets = own_shingles([_row(0, text) for text in (a, b, c)])
    expected = [str(i + 2) for i in (0, 1) if jaccard(sets[0], sets[i + 1]) >= 0.8]
    assert [leak.id for leak in _gate(*parts).removed] == expected


def test_duplicates_and_contradictions_are_counted() -> None:
    rows = [_row(1, "My card!", "a"), _row(2, "my  card", "b"), _row(3, "other", "a")]
    rows += [_row(4, "lunch :)", "a"), _row(5, "lunch :(", "b")]
    assert duplicates_within(Part("t", "train", Rows.of(rows))) == {
        "repeated": 1,
        "contradictory": 1,
    }
