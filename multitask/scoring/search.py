"""Best-first search for the most probable label, for all queries of a batch at once.

The log-probability of a node bounds that of every label below it, because a token's probability
is at most one. So a label is the best as soon as it is no worse than every node not yet read.
Which nodes to read next is a guess that costs time when wrong, never exactness.

Metrics of probabilities need little of the tail: the score of the gold label, how many labels are
above it as far as that is asked for, and the mass of the rest. The open nodes give the last: what
a branch holds is at most its own probability, and nearly that where a model knows the labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from multitask.scoring.trie import Floats, Forest, Ints, runs

Bools = np.ndarray[Any, np.dtype[np.bool_]]

# Below this loss per token (nats) a model is taken to know the task, and only the branch that looks
# best is read; above, all that will probably be needed is read at once.
_FLAT_LOSS = 1.0


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
    inner: np.ndarray[tuple[int], np.dtype[np.bool_]]
    node: Ints


class Search:
    """State of the search in a batch.

    Attributes:
        scores: Log-likelihood of every leaf that is known, NaN elsewhere, (queries, nodes).
        nodes: Nodes read for each query.
        active: Queries that are not decided yet.
    """

    def __init__(
        self,
        forest: Forest,
        queries: int,
        *,
        unvisited: float | None,
        gold: Ints | None = None,
        ranks: int = 0,
    ) -> None:
        """Begin at the root.

        Args:
            forest: The tries.
            queries: How many queries.
            unvisited: None: stop when the best label is proven. A number: stop when the labels
                not visited hold at most this share of the probability of those visited, and the
                best one is proven.
            gold: Leaf of each query that is to be scored in any case.
            ranks: Stop only when the gold leaf's rank is known, or known to be beyond this one.
        """
        self.forest = forest
        self._unvisited = unvisited
        self._gold = gold
        self._ranks = ranks
        shape = (queries, forest.width)
        self._open = np.full(shape, -np.inf)
        self._exact = np.zeros(shape)
        self._read = np.zeros(shape, bool)
        self._best = np.full(queries, -np.inf)
        self._found = np.full(queries, -np.inf)
        self.scores = np.full(shape, np.nan)
        self.nodes = np.zeros(queries, np.int64)
        self.active: Ints = np.arange(queries)
        self._leak: Floats | None = None

    def upper(self) -> Floats:
        """Bound on the log-likelihood of every label not visited, -inf where there is none."""
        bound: Floats = self._open.max(1)
        return bound

    def mass_left(self) -> Floats:
        """Bound on the probability not visited, relative to the probability visited."""
        with np.errstate(over="ignore", invalid="ignore"):
            mass: Floats = np.exp(_log_sum(self._open) - self._found)
            return mass

    def shares(self) -> Floats:
        """Of each leaf not visited, the log of an equal share of its open branch; else -inf."""
        forest, found = self.forest, self._open.copy()
        for row, trie in enumerate(forest.tries[:1] if forest.shared else forest.tries):
            part = found[:, : len(trie)] if forest.shared else found[row : row + 1, : len(trie)]
            part -= trie.log_leaves
            for nodes in trie.levels[2:]:
                # Above an open node all are read, and hold nothing more.
                np.maximum(part[:, nodes], part[:, trie.parent[nodes]], out=part[:, nodes])
        return found

    def targets(self, query: Ints, node: Ints) -> Targets:
        """What reading these nodes must tell."""
        forest = self.forest
        length = forest.get(forest.length, query, node)
        pair, place = runs(np.maximum(length - 1, 0))
        inner = forest.tokens[forest.get(forest.start, query, node)[pair] + place + 1]
        branch, sibling = runs(forest.get(forest.children, query, node))
        child = forest.get(forest.child, query, node)[branch] + sibling
        return Targets(
            pair=np.concatenate([pair, branch]),
            place=np.concatenate([place, length[branch] - 1]),
            token=np.concatenate([inner, forest.get(forest.first, query[branch], child)]),
            inner=np.arange(len(pair) + len(branch)) < len(pair),
            node=np.concatenate([node[pair], child]),
        )

    def absorb(self, query: Ints, node: Ints, targets: Targets, values: Floats) -> None:
        """Take in what reading the nodes has told; parents must come before their children.

        Args:
            query: Query of each pair.
            node: Node of each pair.
            targets: Of these pairs.
            values: Log-probability of each target.
        """
        forest = self.forest
        inner = np.bincount(
            targets.pair[targets.inner], values[targets.inner], minlength=len(query)
        )
        begins = ~targets.inner
        owner, child, value = targets.pair[begins], targets.node[begins], values[begins]
        levels = forest.get(forest.level, query, node)
        np.add.at(self.nodes, query, node > 0)
        for level in np.unique(levels):
            chosen = levels == level
            q, n = query[chosen], node[chosen]
            exact = self._bound_of(q, n) + inner[chosen]
            self._exact[q, n] = exact
            self._read[q, n] = True
            self._open[q, n] = -np.inf
            leaf = forest.get(forest.children, q, n) == 0
            self._finish(q[leaf], n[leaf], exact[leaf])
            below = chosen[owner]
            q, n = query[owner[below]], child[below]
            bound = self._exact[q, node[owner[below]]] + value[below]
            # A leaf that needs no reading is known at once.
            done = forest.get(forest.feed, q, n) == 0
            done &= forest.get(forest.children, q, n) == 0
            self._read[q[done], n[done]] = True
            self._finish(q[done], n[done], bound[done])
            self._open[q[~done], n[~done]] = bound[~done]
        self._decide()

    def select(self, most: int) -> tuple[Ints, Ints]:
        """Choose the nodes to read next.

        Args:
            most: Most tokens per query.

        Returns:
            Queries and nodes, by query, parents before children; at least one for each active
            query.
        """
        rows = self.active
        bounds = self._open[rows]
        top = bounds.argmax(1)
        height = bounds[np.arange(len(rows)), top]
        depth = self.forest.get(self.forest.depth, rows, top) + 1
        # A model that knows the task gives labels nearly all probability: what it leaves to other
        # texts is what each further token will cost. One that does not will go on as it began.
        leak = self._leak[rows] if self._leak is not None else np.zeros(len(rows))
        loss = np.maximum(np.where(leak < _FLAT_LOSS, leak, -height / depth), 1e-3)
        goal = height - loss * self.forest.get(self.forest.rest, rows, top)
        goal = np.maximum(goal, self._best[rows])
        if self._unvisited is not None:
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
        tokens = self.forest.get(self.forest.feed, rows[query], node)
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
        share = self._unvisited or 0.0
        if share == 0.0:
            return np.full(len(rows), -1e300)
        ordered = np.sort(bounds, axis=1)
        found = np.logaddexp(self._found[rows], goal)[:, None]
        with np.errstate(under="ignore"):
            tail = np.cumsum(np.exp(ordered - found), axis=1)
        first = (tail > share / 2).argmax(1)
        return np.where(tail[:, -1] > share / 2, ordered[np.arange(len(rows)), first], goal)

    def _is_settled(self, rows: Ints, bounds: Floats) -> Bools:
        """Whether the best label and the mass of the rest are known."""
        if self._unvisited is None:
            small = np.ones(len(rows), bool)
        else:
            limit = np.log(self._unvisited) if self._unvisited > 0 else -np.inf
            small = _log_sum(bounds) <= self._found[rows] + limit
        settled: Bools = small & (bounds.max(1) <= self._best[rows])
        return settled

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
            node = self.forest.get(self.forest.parent, rows[place], node)

    def _guesses(self, rows: Ints, bounds: Floats, loss: Floats, goal: Floats) -> Floats:
        """Bounds of open nodes, and guesses for what is below them where it pays to read along."""
        forest = self.forest
        if self._unvisited == 0.0 or not forest.shared:
            # Everything is needed, or tries are so small that one step for all is cheapest.
            whole = np.where(self._read[rows], -np.inf, -1e200)
            if not forest.shared:
                sizes = np.array([len(forest.tries[row]) for row in rows])
                whole[np.arange(forest.width)[None] >= sizes[:, None]] = -np.inf
                if self._unvisited != 0.0:
                    whole = np.where(np.isfinite(whole), goal[:, None], -np.inf)
            np.maximum(bounds, whole, out=bounds)
            return bounds
        below = (bounds.max(1) - goal > np.log(2)) & (
            (self._unvisited is None) | (loss > _FLAT_LOSS)
        )
        if not below.any():
            return bounds
        trie = forest.tries[0]
        part = bounds[below]
        for nodes in trie.levels[2:]:
            parent = trie.parent[nodes]
            step = loss[below, None] * trie.length[parent] + trie.log_siblings[nodes]
            np.maximum(part[:, nodes], part[:, parent] - step, out=part[:, nodes])
        bounds[below] = part
        return bounds

    def _bound_of(self, query: Ints, node: Ints) -> Floats:
        return np.where(node == 0, 0.0, self._open[query, node])

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
    kept = before - before[start] + size <= room
    kept |= np.arange(len(q)) == start
    # A node is no use without its parent, which is at least as promising and so stands before it:
    # what follows the first that does not fit is left out, fitting or not.
    cut = np.maximum.accumulate(np.where(kept, -1, start))
    kept &= cut != start
    kept |= np.arange(len(q)) == start
    chosen = np.sort(order[kept])
    return query[chosen], node[chosen]
