"""Near-duplicates: found where similarity is high, never claimed where it is not."""

from __future__ import annotations

import random

from multitask.data.leakage import Part, duplicates_within, mark_near_duplicates, remove_leaks
from multitask.data.near_duplicates import connected, jaccard, near_duplicates, shingles
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


def _row(number: int, text: str, label: str = "a") -> Example:
    return Example(str(number), text, label)


def test_pairs_equal_an_exhaustive_search() -> None:
    rows = [_row(i, _sentence(i)) for i in range(60)]
    rows += [_row(100 + i, _sentence(i) + " thanks") for i in range(0, 60, 3)]
    sets = [shingles(row) for row in rows]
    expected = {
        (i, j)
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if jaccard(sets[i], sets[j]) >= 0.8
    }
    found = near_duplicates(rows, threshold=0.8)
    assert len(expected) >= 15
    assert {(pair.first, pair.second) for pair in found} <= expected
    # MinHash may miss a pair at the threshold itself, but hardly one well above it.
    sure = {(i, j) for i, j in expected if jaccard(sets[i], sets[j]) >= 0.88}
    assert sure <= {(pair.first, pair.second) for pair in found}


def test_rows_connected_by_pairs_are_one_group() -> None:
    assert connected(5, [(3, 1), (4, 3)]).tolist() == [0, 1, 2, 1, 1]


def test_a_training_row_near_a_test_row_is_removed_and_its_level_told() -> None:
    test = Part("t", "test", [_row(1, _sentence(1))])
    train = Part("t", "train", [_row(2, _sentence(1) + "s"), _row(3, _sentence(9))])
    neighbours = mark_near_duplicates([test, train], threshold=0.8, seed=0)
    (leak,) = remove_leaks([train], [test], neighbours)
    assert (leak.id, leak.level, leak.other_id) == ("2", "near", "1")
    assert [row.id for row in train.examples] == ["3"]
    assert len(train.keys) == len(train.groups) == 1


def test_what_is_near_a_neighbour_only_is_kept() -> None:
    """A chain a-b-c is one group for the split, but c does not repeat a."""
    a = "x" * 60
    b, c = a + "abcdefgh", a + "abcdefghijklmnopqrstuvwxyz0123456789"
    parts = [Part("t", "test", [_row(1, a)]), Part("t", "train", [_row(2, b), _row(3, c)])]
    neighbours = mark_near_duplicates(parts, threshold=0.8, seed=0)
    leaks = remove_leaks(parts[1:], parts[:1], neighbours)
    sets = [shingles(_row(0, text)) for text in (a, b, c)]
    expected = [str(i + 2) for i in (0, 1) if jaccard(sets[0], sets[i + 1]) >= 0.8]
    assert [leak.id for leak in leaks] == expected


def test_duplicates_and_contradictions_are_counted() -> None:
    rows = [_row(1, "My card!", "a"), _row(2, "my  card", "b"), _row(3, "other", "a")]
    assert duplicates_within(Part("t", "train", rows)) == {"repeated": 1, "contradictory": 1}
