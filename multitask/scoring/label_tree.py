"""Label sets as trees of tokens, and an exact best-first search in them.

A `Trie` is path-compressed (a radix tree): a node's edge holds the tokens that lead to it from its
parent; where labels part there is a branch, where one ends a leaf. Nodes are numbered breadth
first, so that a parent comes before its children and siblings stand together.

The log-probability of a node bounds that of every label below it, because a token's probability is
at most one. So a label is the best as soon as it is no worse than every node not yet read. Which
nodes to read next is a guess that costs time when wrong, never exactness. What an open branch holds
is at most its own probability, and nearly that where a model knows the labels: so little of the
tail need be read for metrics of probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from multitask.scoring.encode import Tokens

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FIELDS = (
    "start",  # where the edge begins among the tokens of all edges
    "length",  # tokens of the edge; 0 of a leaf whose label begins others and has no end of its own
    "parent",  # -1 of the root
    "child",  # the first; the others follow it
    "children",  # 0 of a leaf
    "depth",  # tokens above the edge
    "level",  # edges above
    "rest",  # fewest tokens that follow the edge's first, down to a leaf
    "feed",  # tokens of the edge that a model must read to know its score and its children
    "first",  # first token; -1 of an empty edge
)
# Below this loss per token (nats) a model is taken to know the task, and only the branch that looks
# best is read; above, all that will probably be needed is read at once.
_FLAT_LOSS = 1.0


@dataclass(frozen=True, eq=False)
class Trie:
    """The trie of one label set.

    Attributes:
        tokens: Tokens of all edges, one edge after the other.
        nodes: The nodes, node 0 the root; a structured array of `_FIELDS`.
        leaf_of: Leaf of each label; labels of equal tokens share one.
    """

    tokens: Ints
    nodes: NDArray[np.void]
    leaf_of: Ints

    @cached_property
    def levels(self) -> list[slice]:
        """The nodes of each level, the root's first."""
        level = self.nodes["level"]
        borders = np.searchsorted(level, np.arange(level[-1] + 2))
        return [slice(int(a), int(b)) for a, b in pairwise(borders)]

    @cached_property
    def log_siblings(self) -> Floats:
        """Logarithm of how many nodes share a node's parent, itself included."""
        counts = self.nodes["children"][np.maximum(self.nodes["parent"], 0)].astype(float)
        counts[0] = 1.0
        logs: Floats = np.log(counts)
        return logs

    @cached_property
    def log_leaves(self) -> Floats:
        """Logarithm of how many leaves are below a node, or are it."""
        counts = (self.nodes["children"] == 0).astype(float)
        for level in reversed(self.levels[1:]):
            np.add.at(counts, self.nodes["parent"][level], counts[level])
        logs: Floats = np.log(counts)
        return logs

    @cached_property
    def tallest(self) -> int:
        """Tokens of the longest label."""
        return int((self.nodes["depth"] + self.nodes["length"]).max())

    @cached_property
    def shortest(self) -> int:
        """Tokens of the shortest label."""
        leaves = self.nodes[self.leaf_of]
        return int((leaves["depth"] + leaves["length"]).min(initial=1))


def build_trie(answers: Sequence[Tokens]) -> Trie:
    """The trie of a label set, from each label's tokens."""
    unique = sorted(set(answers))
    leaf_at: dict[Tokens, int] = {}
    tokens: list[int] = []
    # Start, length, parent, child, children, depth, level; the rest is computed at the end.
    rows: list[list[int]] = [[0, 0, -1, 0, 0, 0, 0]]
    # Each entry: a node and the sorted labels below it, told apart from position `depth` on.
    pending = [(0, 0, len(unique), 0)]
    for node, begin, high, depth in pending:
        rows[node][3], low = len(rows), begin
        while low < high:
            sequence, stop = unique[low], low + 1
            while len(sequence) > depth and stop < high and unique[stop][depth] == sequence[depth]:
                stop += 1
            alone = stop - low == 1
            end = len(sequence) if alone else _shared(sequence, unique[stop - 1], depth)
            number = len(rows)
            rows.append([len(tokens), end - depth, node, 0, 0, depth, rows[node][6] + 1])
            rows[node][4] += 1
            tokens += sequence[depth:end]
            if alone:
                leaf_at[sequence] = number
            else:
                pending.append((number, low, stop, end))
            low = stop
    nodes = np.zeros(len(rows), [(name, np.int64) for name in _FIELDS])
    for name, column in zip(_FIELDS, zip(*rows, strict=True), strict=False):
        nodes[name] = column
    rest = [0] * len(rows)
    for number in range(len(rows) - 1, -1, -1):
        child, children = rows[number][3:5]
        below = min((1 + r for r in rest[child : child + children]), default=0)
        rest[number] = rows[number][1] - 1 + below
    nodes["rest"] = rest
    nodes["feed"] = np.maximum(nodes["length"] - (nodes["children"] == 0), 0)
    text = np.array([*tokens, -1], np.int64)
    nodes["first"] = np.where(nodes["length"] > 0, text[nodes["start"]], -1)
    leaf_of = np.array([leaf_at[answer] for answer in answers], np.int64)
    return Trie(text[:-1], nodes, leaf_of)


def _shared(first: Tokens, last: Tokens, depth: int) -> int:
    """How far two sequences agree; of a sorted range, its ends agree least."""
    end = depth
    while end < min(len(first), len(last)) and first[end] == last[end]:
        end += 1
    return end


class Forest:
    """The tries of a batch's queries, read by (query, node) pairs; equal ones are kept once."""

    def __init__(self, tries: Sequence[Trie]) -> None:
        """Take one trie per query."""
        kept = {id(trie): trie for trie in tries}
        place = {key: i for i, key in enumerate(kept)}
        self.tree: Ints = np.array([place[id(trie)] for trie in tries])
        self.tries = list(kept.values())
        sizes = np.array([len(trie.nodes) for trie in self.tries])
        self.sizes = sizes[self.tree]
        self.width = int(sizes.max())
        self.tokens = np.concatenate([trie.tokens for trie in self.tries])
        self._nodes = np.concatenate([trie.nodes for trie in self.tries])
        lengths = np.array([len(trie.tokens) for trie in self.tries])
        self._nodes["start"] += np.repeat(np.cumsum(lengths) - lengths, sizes)
        self._base = (np.cumsum(sizes) - sizes)[self.tree]

    @property
    def shared(self) -> bool:
        """Whether all queries have one trie."""
        return len(self.tries) == 1

    def get(self, name: str, query: Ints, node: Ints) -> Ints:
        """A field of nodes, by pairs of query and node."""
        found: Ints = self._nodes[name][node if self.shared else self._base[query] + node]
        return found


def runs(counts: Ints) -> tuple[Ints, Ints]:
    """For runs of the given lengths, one after the other: each place's run, and place in it."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]


@dataclass(frozen=True, eq=False)
class Targets:
    """Tokens whose log-probabilities a step needs.

    Attributes:
        pair: Which of the step's (query, node) pairs is read just before the token.
        place: Which token of that node's edge is read just before; -1: the prompt's last one.
        token: The token; -1 where a label ends without one (its log-probability is 0).
        inner: True where the token lies in the node's own edge, False where it begins a child's.
        node: The node that the token belongs to.
    """

    pair: Ints
    place: Ints
    token: Ints
    inner: Bools
    node: Ints


class Search:
    """State of the search in a batch.

    Attributes:
        scores: Log-likelihood of every leaf that is known, NaN elsewhere, (queries, nodes).
        active: Queries that are not decided yet.
    """

    def __init__(
        self,
        forest: Forest,
        *,
        max_residual: float | None,
        gold: Ints | None = None,
        ranks: int = 0,
    ) -> None:
        """Begin at the root.

        The search stops when the best label is proven and, unless ``max_residual`` is None, the
        labels not scored hold at most that share of the probability of those scored; with
        ``gold``, a leaf of each query, also when that one is scored and its rank is known, or
        known to be beyond ``ranks``.
        """
        queries = len(forest.tree)
        shape = (queries, forest.width)
        self.forest = forest
        self.scores = np.full(shape, np.nan)
        self.active: Ints = np.arange(queries)
        self._residual, self._gold, self._ranks = max_residual, gold, ranks
        self._open = np.full(shape, -np.inf)  # bounds of nodes that can be read next
        self._exact = np.zeros(shape)  # of nodes that are read
        self._read = np.zeros(shape, bool)
        self._best = np.full(queries, -np.inf)
        self._found = np.full(queries, -np.inf)  # log of the probability of all scored leaves
        self._leak: Floats | None = None

    def residual(self) -> Floats:
        """Bound of each query's share of the labels' probability that lies on those not scored."""
        # 1 / (1 + found / open), which is finite whatever underflows.
        with np.errstate(over="ignore"):
            share = 1 / (1 + np.exp(self._found - _log_sum(self._open)))
        bound: Floats = np.minimum(share, np.nextafter(1, 0))
        return bound

    def shares(self) -> Floats:
        """Of each leaf not scored, the log of an equal share of its open branch; else -inf."""
        found = self._open.copy()
        for number, trie in enumerate(self.forest.tries):
            rows = self.forest.tree == number
            part = found[rows, : len(trie.nodes)] - trie.log_leaves
            for level in trie.levels[2:]:
                # Above an open node all are read, and hold nothing more.
                above = part[:, trie.nodes["parent"][level]]
                np.maximum(part[:, level], above, out=part[:, level])
            found[rows, : len(trie.nodes)] = part
        return found

    def targets(self, query: Ints, node: Ints) -> Targets:
        """What reading these nodes must tell."""
        forest = self.forest
        length = forest.get("length", query, node)
        pair, place = runs(np.maximum(length - 1, 0))
        inner = forest.tokens[forest.get("start", query, node)[pair] + place + 1]
        branch, sibling = runs(forest.get("children", query, node))
        child = forest.get("child", query, node)[branch] + sibling
        return Targets(
            pair=np.concatenate([pair, branch]),
            place=np.concatenate([place, length[branch] - 1]),
            token=np.concatenate([inner, forest.get("first", query[branch], child)]),
            inner=np.arange(len(pair) + len(branch)) < len(pair),
            node=np.concatenate([node[pair], child]),
        )

    def absorb(self, query: Ints, node: Ints, targets: Targets, values: Floats) -> None:
        """Take in the log-probability of each target of the nodes, parents before children."""
        forest = self.forest
        own, begins = targets.inner, ~targets.inner
        inner = np.bincount(targets.pair[own], values[own], minlength=len(query))
        owner, child, value = targets.pair[begins], targets.node[begins], values[begins]
        levels = forest.get("level", query, node)
        for level in np.unique(levels):
            chosen = levels == level
            q, n = query[chosen], node[chosen]
            exact = np.where(n == 0, 0.0, self._open[q, n]) + inner[chosen]
            self._exact[q, n] = exact
            self._read[q, n] = True
            self._open[q, n] = -np.inf
            leaf = forest.get("children", q, n) == 0
            self._finish(q[leaf], n[leaf], exact[leaf])
            below = chosen[owner]
            q, n = query[owner[below]], child[below]
            bound = self._exact[q, node[owner[below]]] + value[below]
            # A leaf that needs no reading is known at once.
            done = (forest.get("feed", q, n) == 0) & (forest.get("children", q, n) == 0)
            self._read[q[done], n[done]] = True
            self._finish(q[done], n[done], bound[done])
            self._open[q[~done], n[~done]] = bound[~done]
        self._decide()

    def _finish(self, query: Ints, node: Ints, score: Floats) -> None:
        self.scores[query, node] = score
        np.maximum.at(self._best, query, score)
        np.logaddexp.at(self._found, query, score)

    def _decide(self) -> None:
        rows = self.active
        if self._leak is None:
            self._leak = -np.logaddexp(_log_sum(self._open), self._found)
        bounds = self._open[rows]
        done = self._is_settled(rows, bounds)
        if self._gold is not None:
            done &= np.isfinite(self.scores[rows, self._gold[rows]])
            done &= np.isposinf(self._rank_bound(rows, bounds))
        self.active = rows[~done]

    def _is_settled(self, rows: Ints, bounds: Floats) -> Bools:
        """Whether the best label and the mass of the rest are known."""
        settled: Bools = bounds.max(1) <= self._best[rows]
        if self._residual is not None:
            limit = np.log(self._residual) if self._residual > 0 else -np.inf
            settled &= _log_sum(bounds) <= self._found[rows] + limit
        return settled

    def select(self, most: int) -> tuple[Ints, Ints]:
        """Queries and nodes to read next, parents first; one or more for each active query.

        They have at most so many tokens a query, or are one node.
        """
        rows, forest = self.active, self.forest
        bounds = self._open[rows]
        top = bounds.argmax(1)
        height = bounds[np.arange(len(rows)), top]
        # A model that knows the task gives labels nearly all probability: what it leaves to other
        # texts is what each further token will cost. One that does not will go on as it began.
        leak = self._leak[rows] if self._leak is not None else np.zeros(len(rows))
        per_token = -height / (forest.get("depth", rows, top) + 1)
        loss = np.maximum(np.where(leak < _FLAT_LOSS, leak, per_token), 1e-3)
        goal = np.maximum(height - loss * forest.get("rest", rows, top), self._best[rows])
        if self._residual is not None:
            goal = np.minimum(height, self._needed(rows, bounds, goal))
        limit = np.minimum(goal, height)
        if self._gold is not None:
            limit[self._is_settled(rows, bounds)] = np.inf
            limit = np.minimum(limit, self._rank_bound(rows, bounds))
        guesses = self._guesses(rows, bounds, loss, goal)
        chosen = guesses >= limit[:, None]
        if self._gold is not None:
            # At once, since it is also what a model that knows the task likes best.
            self._choose_gold(rows, chosen)
        query, node = np.nonzero(chosen)
        tokens = forest.get("feed", rows[query], node)
        # A leaf that needs no reading comes with its parent.
        query, node, tokens = query[tokens > 0], node[tokens > 0], tokens[tokens > 0]
        total = np.bincount(query, tokens, minlength=len(rows))
        # What one query reads lengthens the sequences of all; one that wants much more than the
        # others takes it in several steps.
        room = min(most, max(16, 4 * int(np.ceil(total.mean()))))
        if total.max() > room:
            query, node = _most_promising(query, node, tokens, guesses, room)
        return rows[query], node

    def _needed(self, rows: Ints, bounds: Floats, goal: Floats) -> Floats:
        """Lowest bound to read so that what stays unread holds little enough probability."""
        share = self._residual or 0.0
        if share == 0.0:
            return np.full(len(rows), -1e300)
        ordered = np.sort(bounds, axis=1)
        found = np.logaddexp(self._found[rows], goal)[:, None]
        with np.errstate(under="ignore"):
            tail = np.cumsum(np.exp(ordered - found), axis=1)
        first = (tail > share / 2).argmax(1)
        return np.where(tail[:, -1] > share / 2, ordered[np.arange(len(rows)), first], goal)

    def _rank_bound(self, rows: Ints, bounds: Floats) -> Floats:
        """Bound of the nodes to read for the gold leaf's rank; inf where it is known."""
        assert self._gold is not None
        of_gold = self.scores[rows, self._gold[rows]]
        with np.errstate(invalid="ignore"):
            above = (self.scores[rows] > of_gold[:, None]).sum(1)
            open_above = bounds.max(1) > of_gold
        found = np.full(len(rows), np.inf)
        unknown = np.flatnonzero(open_above & (above < self._ranks))
        # No more than these nodes can be needed: each leads to one leaf at least.
        missing = np.minimum(self._ranks - above[unknown], bounds.shape[1])
        ordered = np.sort(bounds[unknown], axis=1)
        highest = ordered[np.arange(len(unknown)), bounds.shape[1] - missing]
        found[unknown] = np.maximum(highest, np.nextafter(of_gold[unknown], np.inf))
        return found

    def _choose_gold(self, rows: Ints, chosen: Bools) -> None:
        """Add what leads from an open node to each gold leaf."""
        assert self._gold is not None
        place, node = np.arange(len(rows)), self._gold[rows]
        while len(place):
            missing = ~self._read[rows[place], node]
            place, node = place[missing], node[missing]
            chosen[place, node] = True
            node = self.forest.get("parent", rows[place], node)

    def _guesses(self, rows: Ints, bounds: Floats, loss: Floats, goal: Floats) -> Floats:
        """Bounds of open nodes, and guesses for what is below them where it pays to read along."""
        forest = self.forest
        if self._residual == 0.0 or not forest.shared:
            # Everything is needed, or tries are so small that one step for all is cheapest.
            whole = np.full(bounds.shape, -1e200)
            if self._residual != 0.0:
                whole[:] = goal[:, None]
            whole[self._read[rows]] = -np.inf
            whole[np.arange(forest.width)[None] >= forest.sizes[rows, None]] = -np.inf
            np.maximum(bounds, whole, out=bounds)
            return bounds
        below = bounds.max(1) - goal > np.log(2)
        if self._residual is not None:
            below &= loss > _FLAT_LOSS
        if below.any():
            trie, part = forest.tries[0], bounds[below]
            for level in trie.levels[2:]:
                parent = trie.nodes["parent"][level]
                step = loss[below, None] * trie.nodes["length"][parent] + trie.log_siblings[level]
                np.maximum(part[:, level], part[:, parent] - step, out=part[:, level])
            bounds[below] = part
        return bounds


def _log_sum(bounds: Floats) -> Floats:
    top = bounds.max(1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore", under="ignore"):
        return np.where(
            np.isfinite(top), safe + np.log(np.exp(bounds - safe[:, None]).sum(1)), -np.inf
        )


def _most_promising(
    query: Ints, node: Ints, tokens: Ints, guesses: Floats, room: int
) -> tuple[Ints, Ints]:
    """Of each query's nodes the most promising, as many as fit; one in any case."""
    order = np.lexsort((node, -guesses[query, node], query))
    q, size = query[order], tokens[order]
    start = np.searchsorted(q, q)
    before = np.cumsum(size) - size
    first = np.arange(len(q)) == start
    kept = (before - before[start] + size <= room) | first
    # A node is no use without its parent, which is at least as promising and so stands before it:
    # what follows the first that does not fit is left out, fitting or not.
    cut = np.maximum.accumulate(np.where(kept, -1, start))
    chosen = np.sort(order[(kept & (cut != start)) | first])
    return query[chosen], node[chosen]


# How nodes are put before a model.


def with_ancestors(forest: Forest, query: Ints, node: Ints, known: Ints) -> tuple[Ints, Ints]:
    """Add ancestors that ``known`` (queries, nodes) has as -1: each is read after its parent."""
    keys = query * forest.width + node
    above = keys
    while len(above):
        q, n = above // forest.width, above % forest.width
        parent = forest.get("parent", q, n)
        missing = (parent > 0) & (known[q, np.maximum(parent, 0)] < 0)
        above = np.setdiff1d((q * forest.width + parent)[missing], keys)
        keys = np.concatenate([keys, above])
    keys = np.unique(keys)
    return keys // forest.width, keys % forest.width


def paths(forest: Forest, query: Ints, node: Ints) -> tuple[list[tuple[int, list[int]]], Ints]:
    """Whole paths, each a query and tokens, that hold sorted nodes; which one holds each."""
    covered = np.full(len(query), -1, np.int64)
    at = {(q, n): i for i, (q, n) in enumerate(zip(query.tolist(), node.tolist(), strict=True))}
    found: list[tuple[int, list[int]]] = []
    for i in range(len(query) - 1, -1, -1):
        if covered[i] >= 0:
            continue
        row, n = int(query[i]), int(node[i])
        trie = forest.tries[forest.tree[row]]
        tokens: list[int] = []
        while n > 0:
            start, feed = int(trie.nodes["start"][n]), int(trie.nodes["feed"][n])
            tokens[:0] = trie.tokens[start : start + feed].tolist()
            if (place := at.get((row, n))) is not None and covered[place] < 0:
                covered[place] = len(found)
            n = int(trie.nodes["parent"][n])
        found.append((row, tokens))
    return found, covered
