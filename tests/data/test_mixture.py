"""Mixtures: sizes as wished, every row in turn, and one order for all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.data.mixture import choose, mixture_sizes, shuffled
from multitask.errors import InputError
from multitask.task_spec import MixtureSpec

ROWS = {"big": 9000, "mid": 900, "small": 100}


def _sizes(**wishes: object) -> dict[str, int]:
    return mixture_sizes(ROWS, MixtureSpec.model_validate(wishes))


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, {"big": 9000, "mid": 900, "small": 100}),
        ({"strategy": "equal"}, {"big": 3333, "mid": 3333, "small": 3333}),
        ({"strategy": "equal", "size": 300}, {"big": 100, "mid": 100, "small": 100}),
        (
            {"strategy": "weights", "weights": {"big": 2, "mid": 1, "small": 1}, "size": 400},
            {"big": 200, "mid": 100, "small": 100},
        ),
        ({"caps": {"big": 1000}}, {"big": 1000, "mid": 900, "small": 100}),
        ({"epochs": {"small": 3}}, {"big": 9000, "mid": 900, "small": 300}),
        # 9000^(1/2) : 900^(1/2) : 100^(1/2) = 94.87 : 30 : 10
        ({"strategy": "temperature"}, {"big": 7034, "mid": 2224, "small": 741}),
        ({"strategy": "temperature", "temperature": 1}, ROWS),
    ],
)
def test_sizes(wishes: dict[str, object], expected: dict[str, int]) -> None:
    assert _sizes(**wishes) == expected


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"caps": {"bigg": 1}}, "did you mean 'big'"),
        ({"strategy": "weights", "weights": {"big": 1}}, "'mid' has no weight"),
        ({"size": 9001, "epochs": {"big": 1}}, "leaves none for mid, small"),
        (
            {"size": 200, "epochs": {"big": 1}},
            "`epochs` gives big 9,000 rows, and `size` wants 200",
        ),
        ({"size": 10, "epochs": dict.fromkeys(ROWS, 1)}, "`size` wants 10 in all"),
        ({"size": 99999, "epochs": dict.fromkeys(ROWS, 1)}, "`size` wants 99,999 in all"),
    ],
)
def test_wishes_that_cannot_be_met(wishes: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        _sizes(**wishes)


@given(st.integers(1, 50), st.integers(1, 300), st.integers(0, 3))
def test_every_row_is_used_equally_often(rows: int, size: int, seed: int) -> None:
    keys = np.arange(rows, dtype=np.uint64) * np.uint64(977)
    places, uses = choose(keys, rows, size, seed=seed)
    counts = Counter(places.tolist())
    assert len(places) == size
    assert max(counts.values()) - min(counts.values()) <= 1 if size >= rows else True
    assert all(sorted(uses[places == p].tolist()) == list(range(n)) for p, n in counts.items())


def test_the_draw_follows_the_rows_not_their_order() -> None:
    keys = np.arange(100, dtype=np.uint64) * np.uint64(977)
    one, _ = choose(keys, 100, 30, seed=1)
    two, _ = choose(keys[::-1].copy(), 100, 30, seed=1)
    assert {int(keys[i]) for i in one} == {int(keys[::-1][i]) for i in two}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 3))
def test_the_order_holds_every_row_once_and_starts_with_one_of_each(
    sizes: list[int], seed: int
) -> None:
    order = shuffled(sizes, seed=seed)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    task_of = np.repeat(np.arange(len(sizes)), sizes)
    assert {int(task_of[i]) for i in order[: len(sizes)]} == set(range(len(sizes)))
