"""Label sets as path-compressed tries (radix trees) over tokens.

Every node but the root has an edge: the tokens that lead to it from its parent. Where two labels
part there is a branch node; where a label ends there is a leaf. Nodes are numbered breadth first,
so a parent comes before its children and siblings stand together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.scoring.encode import Tokens

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trie:
    """The trie of one label set; arrays have one entry per node, node 0 is the root.

    Attributes:
        tokens: Tokens of all edges, one edge after the other.
        start: Where a node's edge begins in ``tokens``.
        length: Tokens of a node's edge. 0 at the root, and at the leaf of a label that is the
            beginning of another and has no end token of its own.
        parent: The parent; -1 at the root.
        child: First child; the others follow it.
        children: How many children; 0 at a leaf.
        depth: Tokens above a node's edge.
        rest: Fewest tokens that follow the first one of a node's edge, down to a leaf.
        level: Edges from the root.
        leaf_of: Leaf of each label; labels of equal tokens share one.
    """

    tokens: Ints
    start: Ints
    length: Ints
    parent: Ints
    child: Ints
    children: Ints
    depth: Ints
    rest: Ints
    level: Ints
    leaf_of: Ints

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def feed(self) -> Ints:
        """Tokens of a node's edge that the model must read to know its score and its children."""
        tokens: Ints = np.maximum(self.length - (self.children == 0), 0)
        return tokens

    @cached_property
    def first(self) -> Ints:
        """First token of each edge; -1 where the edge is empty."""
        if not len(self.tokens):
            return np.full(len(self), -1)
        place = np.minimum(self.start, len(self.tokens) - 1)
        return np.where(self.length > 0, self.tokens[place], -1)

    @cached_property
    def levels(self) -> list[slice]:
        """The nodes of each level, the root's first."""
        borders = np.searchsorted(self.level, np.arange(self.level[-1] + 2))
        return [slice(int(a), int(b)) for a, b in pairwise(borders)]

    @cached_property
    def log_siblings(self) -> Floats:
        """Logarithm of how many nodes share a node's parent, itself included."""
        counts = self.children[np.maximum(self.parent, 0)].astype(float)
        counts[0] = 1.0
        logs: Floats = np.log(counts)
        return logs

    @cached_property
    def log_leaves(self) -> Floats:
        """Logarithm of how many leaves are below a node, or are it."""
        counts = (self.children == 0).astype(float)
        for nodes in reversed(self.levels[1:]):
            np.add.at(counts, self.parent[nodes], counts[nodes])
        logs: Floats = np.log(counts)
        return logs

    @cached_property
    def tallest(self) -> int:
        """Tokens of the longest label."""
        return int((self.depth + self.length).max())

    @cached_property
    def highest(self) -> int:
        """The highest token id."""
        return int(self.tokens.max(initial=0))

    @cached_property
    def empty(self) -> bool:
        """Whether a label has no tokens at all."""
        return bool(((self.depth + self.length)[self.leaf_of] == 0).any())


def build_trie(answers: Sequence[Tokens]) -> Trie:
    """Build the trie of a label set.

    Args:
        answers: Each label's tokens; none empty. Equal ones share a leaf.
    """
    unique = sorted(set(answers))
    leaf_at: dict[Tokens, int] = {}
    tokens: list[int] = []
    rows: list[tuple[int, int, int, int, int]] = [(0, 0, -1, 0, 0)]
    child, children = [0], [0]
    # Each entry: a node and the sorted labels below it, told apart from position `depth` on.
    pending = [(0, 0, len(unique), 0)]
    for node, begin, high, depth in pending:
        child[node] = len(rows)
        low = begin
        while low < high:
            sequence = unique[low]
            stop = low + 1
            if len(sequence) > depth:
                token = sequence[depth]
                while stop < high and unique[stop][depth] == token:
                    stop += 1
            end = _shared(sequence, unique[stop - 1], depth) if stop - low > 1 else len(sequence)
            number = len(rows)
            rows.append((len(tokens), end - depth, node, depth, rows[node][4] + 1))
            tokens += sequence[depth:end]
            child.append(0)
            children.append(0)
            children[node] += 1
            if stop - low > 1:
                pending.append((number, low, stop, end))
            else:
                leaf_at[sequence] = number
            low = stop
    start, length, parent, above, level = (np.array(c, np.int64) for c in zip(*rows, strict=True))
    rest = np.zeros(len(rows), np.int64)
    for node in range(len(rows) - 1, -1, -1):
        below = range(child[node], child[node] + children[node])
        rest[node] = length[node] - 1 + min((1 + rest[c] for c in below), default=0)
    return Trie(
        tokens=np.array(tokens, np.int64),
        start=start,
        length=length,
        parent=parent,
        child=np.array(child, np.int64),
        children=np.array(children, np.int64),
        depth=above,
        rest=rest,
        level=level,
        leaf_of=np.array([leaf_at[tuple(answer)] for answer in answers], np.int64),
    )


def _shared(first: Tokens, last: Tokens, depth: int) -> int:
    """How far two sequences agree; of a sorted range, its ends agree least."""
    end = depth
    while end < min(len(first), len(last)) and first[end] == last[end]:
        end += 1
    return end


class Forest:
    """The tries of a batch's queries, read by (query, node) pairs.

    Where all queries share one label set, its arrays are kept once.
    """

    def __init__(self, tries: Sequence[Trie]) -> None:
        """Take one trie per query."""
        self.shared = all(trie is tries[0] for trie in tries)
        self.tries = tuple(tries)
        kept = self.tries[:1] if self.shared else self.tries
        self.width = max(len(trie) for trie in kept)
        self.tallest = max(trie.tallest for trie in kept)
        offsets = np.cumsum([0, *(len(trie.tokens) for trie in kept)])[:-1]
        self.tokens: Ints = np.concatenate([trie.tokens for trie in kept])
        self.start = self._stack([t.start + o for t, o in zip(kept, offsets, strict=True)])
        self.length = self._stack([trie.length for trie in kept])
        self.feed = self._stack([trie.feed for trie in kept])
        self.parent = self._stack([trie.parent for trie in kept])
        self.child = self._stack([trie.child for trie in kept])
        self.children = self._stack([trie.children for trie in kept])
        self.depth = self._stack([trie.depth for trie in kept])
        self.rest = self._stack([trie.rest for trie in kept])
        self.level = self._stack([trie.level for trie in kept])
        self.first = self._stack([trie.first for trie in kept])

    def _stack(self, arrays: Sequence[Any]) -> Ints:
        whole = np.zeros((len(arrays), self.width), np.int64)
        for row, array in zip(whole, arrays, strict=True):
            row[: len(array)] = array
        return whole

    def get(self, array: Ints, query: Ints, node: Ints) -> Ints:
        """Entries of one of the arrays for pairs of query and node."""
        return array[0, node] if self.shared else array[query, node]


def runs(counts: Ints) -> tuple[Ints, Ints]:
    """For runs of the given lengths, one after the other: each place's run, and place in it."""
    owner = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - before[owner]
