"""Prompts are grouped by what they begin with, and none is lost."""

from __future__ import annotations

import numpy as np

from multitask.scoring.batches import even_blocks, groups_of


def prompts(head: tuple[int, ...], count: int, seed: int = 0) -> list[tuple[int, ...]]:
    return [
        (*head, *((seed + i * 7 + j) % 50 + 100 for j in range(i % 5 + 1))) for i in range(count)
    ]


def test_every_phrasing_has_its_own_prefix() -> None:
    first, second = (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 9, 8, 7, 6, 5, 4, 3)
    every = [*prompts(first, 30), *prompts(second, 30)]
    groups = groups_of(every, share=True)
    assert {group.prefix for group in groups} == {first, second}
    assert sorted(i for group in groups for i in group.order) == list(range(60))


def test_a_prefix_is_shorter_than_every_prompt_and_begins_each() -> None:
    every = [(1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6, 7)]
    (group,) = groups_of(every, share=True)
    assert group.prefix == (1, 2, 3, 4)
    assert group.order == (2, 1, 0)


def test_prompts_that_share_nothing_are_one_group_without_prefix() -> None:
    every = [(i, i + 1, i + 2) for i in range(40)]
    (group,) = groups_of(every, share=True)
    assert group.prefix == ()


def test_equal_lengths_only() -> None:
    every = [(1, 2), (1, 2, 3), (4, 5)]
    groups = groups_of(every, share=False, equal=True)
    assert sorted(sorted(group.order) for group in groups) == [[0, 2], [1]]


def test_blocks_pad_least() -> None:
    widths = np.array([90, 20, 20, 20, 19, 2, 2])
    assert even_blocks(widths, cost=10) == [(1, 90), (4, 20), (2, 2)]
    assert even_blocks(widths, cost=10_000) == [(7, 90)]
    assert even_blocks(widths[1:4], cost=1) == [(3, 20)]
