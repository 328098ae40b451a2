"""Which queries go through a model together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from multitask.scoring.encode import Tokens
from multitask.scoring.trie import Ints

# A prefix shorter than this is not worth a forward of its own; a group of fewer queries is not
# worth a prefix of its own.
_SHORTEST_PREFIX = 4
_FEWEST_QUERIES = 16


@dataclass(frozen=True)
class Group:
    """Queries that can share a batch.

    Attributes:
        prefix: Tokens that all of their prompts begin with, at least one short of each prompt.
        order: Indices of the queries, longest prompt first: what does not fit into memory should
            fail at once, not in the last minute.
    """

    prefix: Tokens
    order: tuple[int, ...]


def groups_of(prompts: Sequence[Tokens], *, share: bool, equal: bool = False) -> list[Group]:
    """Group prompts.

    Args:
        prompts: Prompts in tokens.
        share: Look for prefixes shared by many prompts, such as those of a task's phrasings.
        equal: Put only prompts of the same length into a group.
    """
    every = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    if equal:
        by_length: dict[int, list[int]] = {}
        for i in every:
            by_length.setdefault(len(prompts[i]), []).append(i)
        return [Group((), tuple(found)) for found in by_length.values()]
    return list(_split(prompts, every)) if share else [Group((), tuple(every))]


def _split(prompts: Sequence[Tokens], order: list[int]) -> Iterator[Group]:
    shared = _shared(prompts, order)
    parts: dict[int, list[int]] = {}
    for i in order:
        parts.setdefault(prompts[i][shared], []).append(i)
    own = {
        token: part
        for token, part in parts.items()
        if len(parts) > 1
        and len(part) >= _FEWEST_QUERIES
        and _shared(prompts, part) >= shared + _SHORTEST_PREFIX
    }
    # Phrasings are few and take nearly all rows; words that happen to begin many questions are
    # not worth splitting batches for.
    if sum(map(len, own.values())) < 0.8 * len(order):
        own = {}
    for part in own.values():
        yield from _split(prompts, part)
    rest = [i for i in order if prompts[i][shared] not in own]
    if rest:
        worth = shared >= _SHORTEST_PREFIX and len(rest) > 1
        yield Group(prompts[rest[0]][:shared] if worth else (), tuple(rest))


def _shared(prompts: Sequence[Tokens], order: list[int]) -> int:
    """How many tokens all begin with, one short of the shortest at most."""
    low, high = min(prompts[i] for i in order), max(prompts[i] for i in order)
    end = min(len(prompts[order[-1]]), len(low), len(high)) - 1
    for place in range(end):
        if low[place] != high[place]:
            return place
    return end


def even_blocks(widths: Ints, cost: int) -> list[tuple[int, int]]:
    """Split rows into blocks that are padded little.

    Args:
        widths: Tokens of each row, descending.
        cost: What a block costs by itself, in tokens.

    Returns:
        Rows and width of each block, such that the padded tokens and the blocks' own costs
        together are least.
    """
    values, counts = np.unique(-widths, return_counts=True)
    total = np.concatenate([[0], np.cumsum(counts)])
    least, begin = [0.0], [0]
    for end in range(1, len(values) + 1):
        costs = [
            least[first] + cost + float((total[end] - total[first]) * -values[first])
            for first in range(end)
        ]
        begin.append(int(np.argmin(costs)))
        least.append(min(costs))
    blocks: list[tuple[int, int]] = []
    end = len(values)
    while end:
        first = begin[end]
        blocks.insert(0, (int(total[end] - total[first]), int(-values[first])))
        end = first
    return blocks
