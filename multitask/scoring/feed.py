"""Tokens of trie nodes laid out for a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multitask.scoring.trie import Forest, Ints, runs


@dataclass(frozen=True, eq=False)
class Slots:
    """The tokens of (query, node) pairs, one slot each, by query and then by node.

    Attributes:
        query: Query of each pair.
        node: Node of each pair.
        begin: First slot of each pair.
        pair: Pair of each slot.
        place: Place of each slot in its node's edge.
        token: Token of each slot.
        depth: Tokens between the prompt and each slot's token.
    """

    query: Ints
    node: Ints
    begin: Ints
    pair: Ints
    place: Ints
    token: Ints
    depth: Ints


def lay_out(forest: Forest, query: Ints, node: Ints) -> Slots:
    """Lay out the tokens of (query, node) pairs, which are sorted."""
    feed = forest.get(forest.feed, query, node)
    pair, place = runs(feed)
    return Slots(
        query=query,
        node=node,
        begin=np.cumsum(feed) - feed,
        pair=pair,
        place=place,
        token=forest.tokens[forest.get(forest.start, query, node)[pair] + place],
        depth=forest.get(forest.depth, query, node)[pair] + place,
    )


def with_ancestors(forest: Forest, query: Ints, node: Ints, known: Ints) -> tuple[Ints, Ints]:
    """Add the ancestors that are not known, so that every node can be read after its parent.

    Args:
        forest: The tries.
        query: Query of each pair.
        node: Node of each pair.
        known: For every query and node, -1 where it is not known, shape (queries, nodes).
    """
    keys = query * forest.width + node
    above = keys
    while len(above):
        q, n = above // forest.width, above % forest.width
        parent = forest.get(forest.parent, q, n)
        missing = (parent > 0) & (known[q, np.maximum(parent, 0)] < 0)
        above = np.setdiff1d((q * forest.width + parent)[missing], keys)
        keys = np.concatenate([keys, above])
    keys = np.unique(keys)
    return keys // forest.width, keys % forest.width


def paths(forest: Forest, query: Ints, node: Ints) -> tuple[list[tuple[int, list[int]]], Ints]:
    """Cover nodes by whole paths from the prompt.

    Args:
        forest: The tries.
        query: Query of each pair.
        node: Node of each pair; sorted, so that a child comes after its parent.

    Returns:
        The paths, each a query and the tokens to read; and for every pair a path that holds it.
    """
    covered = np.full(len(query), -1, np.int64)
    at = {(q, n): i for i, (q, n) in enumerate(zip(query.tolist(), node.tolist(), strict=True))}
    found: list[tuple[int, list[int]]] = []
    for i in range(len(query) - 1, -1, -1):
        if covered[i] >= 0:
            continue
        row = int(query[i])
        trie = forest.tries[0 if forest.shared else row]
        tokens: list[int] = []
        n = int(node[i])
        while n > 0:
            start = int(trie.start[n])
            tokens[:0] = trie.tokens[start : start + int(trie.feed[n])].tolist()
            if (place := at.get((row, n))) is not None and covered[place] < 0:
                covered[place] = len(found)
            n = int(trie.parent[n])
        found.append((row, tokens))
    return found, covered
