"""Exact scores of closed label sets: which label is the most probable answer, and how probable.

A prompt is computed once, what all prompts share once for all; the labels are read as a tree, best
first, so that a model which knows the answer reads little more than that answer. See `search` for
why the result is exact all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.errors import MultitaskError
from multitask.scoring.batches import Group, even_blocks, groups_of
from multitask.scoring.capabilities import Capability, Method, capability_of, position_limit
from multitask.scoring.encode import Encoded, Tokens
from multitask.scoring.forward import is_out_of_memory, log_probabilities
from multitask.scoring.plain import difference_from_plain
from multitask.scoring.rows import CachedReader, EncoderDecoderReader, PlainReader
from multitask.scoring.search import Search, Targets
from multitask.scoring.tree import TreeReader
from multitask.scoring.trie import Floats, Forest, Ints, Trie, build_trie

Progress = Callable[[int], None]
Reader = TreeReader | CachedReader | PlainReader | EncoderDecoderReader

DEFAULT_TOKEN_BUDGET = 16384
FULL_DISTRIBUTION = 3e-3
_MOST_ROWS = 512
_MOST_TRIES = 16384
# What a batch of its own costs, in tokens of padding.
_BATCH_COST = 4096
_SLOWER = {Method.TREE: Method.CACHED, Method.CACHED: Method.PLAIN}


@dataclass(frozen=True, eq=False)
class LabelScores:
    """What a model says of one query's labels.

    Attributes:
        best: Index of the most probable label. Exact; of labels that tie, the first visited one
            in the order given.
        log_likelihood: Log-likelihood of each label given the prompt, natural logarithm, summed
            over its tokens with the end of the turn; NaN where it was not needed. The best
            label's is always known.
        share: Of a label that was not visited, the log of an equal share of the bound of the
            branch that it is on: what is known of the tail. NaN of those visited.
        upper: No label that was not visited has a higher log-likelihood; -inf if all were.
        unvisited: Bound on the probability of all labels not visited, as a share of that of all
            visited.
        nodes: Trie nodes read.
        forwards: Forwards that the query's batch took, that of the prompts included.
    """

    best: int
    log_likelihood: NDArray[np.float64]
    share: NDArray[np.float64]
    upper: float
    unvisited: float
    nodes: int
    forwards: int

    def normalised(self, lengths: Sequence[int]) -> NDArray[np.float64]:
        """Log-likelihoods per token or character, for answers of different lengths.

        Its argmax is the best label by length only where every label was visited.

        Args:
            lengths: Tokens or characters of each answer.
        """
        mean: NDArray[np.float64] = self.log_likelihood / np.asarray(lengths, float)
        return mean


@dataclass(frozen=True)
class _Wanted:
    """What is wanted of queries; see `LabelScorer.score`."""

    unvisited: float | None
    gold: Sequence[int] | None
    ranks: int

    def of(self, batch: Sequence[int]) -> _Wanted:
        """The same of some of the queries."""
        gold = None if self.gold is None else [self.gold[i] for i in batch]
        return _Wanted(self.unvisited, gold, self.ranks)


class NotFiniteError(MultitaskError):
    """The model returned a number that is not finite."""


class LabelScorer:
    """Scores closed label sets with one model.

    Attributes:
        notes: What did not go the fastest way, and why, in words for a report.
        token_budget: Tokens held at once; halves whenever memory runs out.
    """

    def __init__(
        self,
        model: Any,
        *,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        method: Method | None = None,
    ) -> None:
        """Score with ``model``.

        Args:
            model: A causal or encoder-decoder model of transformers, in evaluation mode.
            token_budget: Bound on the tokens of a batch, prompts and labels.
            method: Default: the fastest that is right for the architecture. The first batch is
                compared with the plain method; where they differ, the next slower one is taken.
        """
        self.notes: list[str] = []
        self.token_budget = token_budget
        self._model = model
        self._method = method
        self._checked: set[Method] = {Method.PLAIN, Method.ENCODER_DECODER}
        self._tries: dict[tuple[Tokens, ...], Trie] = {}
        self._latest: tuple[tuple[Tokens, ...], Trie] = ((), build_trie(()))

    def score(
        self,
        queries: Sequence[Encoded],
        *,
        unvisited: float | None = None,
        gold: Sequence[int] | None = None,
        ranks: int = 0,
        ids: Sequence[str] | None = None,
        progress: Progress = lambda _: None,
    ) -> list[LabelScores]:
        """Score queries.

        Args:
            queries: Prompts with their answers.
            unvisited: None: only what proves the best label. A number: visit labels until the
                others hold at most this share of the probability of the visited ones
                (`FULL_DISTRIBUTION`); 0: visit all.
            gold: Index of each query's right label, which is then visited in any case.
            ranks: Visit labels until it is known whether, and where, gold is among so many of the
                most probable ones.
            ids: Names of the queries, for messages.
            progress: Told how many queries are done.

        Returns:
            Scores in the order of the queries.

        Raises:
            MultitaskError: The model gave a number that is not finite, a token is beyond the
                model's vocabulary or positions, or memory does not suffice for one query.
        """
        import torch

        if not queries:
            return []
        names = [str(i) for i in range(len(queries))] if ids is None else list(ids)
        limit = position_limit(self._model)
        rows = self._model.get_input_embeddings().num_embeddings
        tries = [self._trie(query.answers) for query in queries]
        for query, trie, name in zip(queries, tries, names, strict=True):
            _check_query(query, trie, name, rows, limit)
        longest = max(len(q.prompt) + trie.tallest for q, trie in zip(queries, tries, strict=True))
        capability = self._capability(longest)
        groups = groups_of(
            [query.prompt for query in queries],
            share=capability.method is Method.TREE,
            equal=capability.equal_lengths,
        )
        results: dict[int, LabelScores] = {}
        wanted = _Wanted(unvisited, gold, ranks)
        with torch.inference_mode():
            for group in groups:
                for found in self._score_group(group, queries, capability, wanted, names):
                    results |= found
                    progress(len(results))
        return [results[i] for i in range(len(queries))]

    def _capability(self, longest: int) -> Capability:
        capability = capability_of(self._model, longest)
        if self._method is not None:
            capability = Capability(self._method, equal_lengths=capability.equal_lengths)
        elif capability.reason:
            self._note(f"labels are read by the {capability.method} method: {capability.reason}")
        return capability

    def _score_group(
        self,
        group: Group,
        queries: Sequence[Encoded],
        capability: Capability,
        wanted: _Wanted,
        names: Sequence[str],
    ) -> Iterator[dict[int, LabelScores]]:
        """Score a group batch by batch; smaller ones when memory runs out."""
        pending = list(group.order)
        lengths = np.array([len(queries[i].prompt) - len(group.prefix) for i in pending])
        blocks = even_blocks(lengths, _BATCH_COST)
        reader: Reader | None = None
        while pending:
            method = self._method or capability.method
            alike, _ = blocks[0]
            size = min(alike, self._rows(queries[pending[0]]))
            batch = pending[:size]
            inputs = [queries[i] for i in batch]
            slower = None if method in self._checked else _SLOWER.get(method)
            try:
                if reader is None:
                    tallest = max(self._trie(queries[i].answers).tallest for i in pending)
                    reader = self._reader(method, group.prefix, tallest, capability)
                some = wanted.of(batch)
                found = self._score_batch(reader, inputs, some, [names[i] for i in batch])
                wrong = difference_from_plain(self._model, inputs, found) if slower else ""
            except (MemoryError, RuntimeError, ValueError, TypeError, MultitaskError) as error:
                if is_out_of_memory(error):
                    self._halve(len(batch), inputs[0])
                elif slower is None:
                    raise
                else:
                    self._take(slower, method, str(error).strip().splitlines()[0])
                reader = None
                continue
            if slower and wrong:
                self._take(slower, method, wrong)
                reader = None
                continue
            self._checked.add(method)
            del pending[:size]
            blocks[0] = (alike - size, 0)
            blocks = blocks[alike == size :]
            yield dict(zip(batch, found, strict=True))

    def _rows(self, longest: Encoded) -> int:
        """Queries per batch, within the budget."""
        return min(_MOST_ROWS, max(1, self.token_budget // (len(longest.prompt) + 16)))

    def _reader(
        self, method: Method, prefix: Tokens, tallest: int, capability: Capability
    ) -> Reader:
        budget = self.token_budget
        if method is Method.CACHED:
            return CachedReader(self._model, budget=budget, stepwise=capability.equal_lengths)
        if method is Method.PLAIN:
            return PlainReader(self._model, budget=budget)
        if method is Method.ENCODER_DECODER:
            return EncoderDecoderReader(self._model, budget=budget)
        return TreeReader(self._model, prefix, budget=budget, tallest=tallest)

    def _score_batch(
        self,
        reader: Reader,
        queries: Sequence[Encoded],
        wanted: _Wanted,
        names: Sequence[str],
    ) -> list[LabelScores]:
        tries = [self._trie(query.answers) for query in queries]
        forest = Forest(tries)
        gold = None
        if wanted.gold is not None:
            leaves = [trie.leaf_of[i] for trie, i in zip(tries, wanted.gold, strict=True)]
            gold = np.array(leaves, np.int64)
        search = Search(
            forest, len(queries), unvisited=wanted.unvisited, gold=gold, ranks=wanted.ranks
        )
        logits = reader.start([query.prompt for query in queries], forest)
        query, node = np.arange(len(queries)), np.zeros(len(queries), np.int64)
        targets = search.targets(query, node)
        values = log_probabilities(
            logits[:, None], query[targets.pair], targets.place * 0, targets.token
        )
        _check_finite(values, query, targets, names)
        search.absorb(query, node, targets, values)
        forwards = np.ones(len(queries), np.int64)
        while len(search.active):
            forwards[search.active] += 1
            query, node = search.select(reader.room)
            targets = search.targets(query, node)
            values = reader.extend(query, node, targets)
            _check_finite(values, query, targets, names)
            search.absorb(query, node, targets, values)
        upper, left = search.upper().tolist(), search.mass_left().tolist()
        shares = search.shares()
        results = []
        for i, trie in enumerate(tries):
            known = search.scores[i, trie.leaf_of]
            results.append(
                LabelScores(
                    best=int(np.nanargmax(known)),
                    log_likelihood=known,
                    share=np.where(np.isnan(known), shares[i, trie.leaf_of], np.nan),
                    upper=upper[i],
                    unvisited=left[i],
                    nodes=int(search.nodes[i]),
                    forwards=int(forwards[i]),
                )
            )
        return results

    def _trie(self, answers: tuple[Tokens, ...]) -> Trie:
        """The trie of a label set, built once."""
        # Thousands of labels are slow to hash, and the queries of a task share one tuple.
        same, trie = self._latest
        if answers is not same:
            if len(self._tries) > _MOST_TRIES:
                self._tries.clear()
            if answers not in self._tries:
                self._tries[answers] = build_trie(answers)
            trie = self._tries[answers]
            self._latest = (answers, trie)
        return trie

    def _halve(self, rows: int, longest: Encoded) -> None:
        import torch

        if rows == 1:
            raise MultitaskError(
                f"memory does not suffice for one prompt of {len(longest.prompt)} tokens",
                fix="shorten the prompts, load the model in 4 bits, or use a machine with more",
            )
        self.token_budget = min(self.token_budget, rows * (len(longest.prompt) + 16)) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._note(f"memory ran out; batches now hold {self.token_budget} tokens")

    def _take(self, slower: Method, method: Method, reason: str) -> None:
        self._method = slower
        self._note(
            f"labels are read by the {slower} method, since the {method} one fails: {reason}"
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def label_scores(
    model: Any,
    queries: Sequence[Encoded],
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Progress = lambda _: None,
) -> list[list[float]]:
    """Log-likelihood of every answer given its prompt; see `LabelScorer` for more.

    Returns:
        For each query, one score per answer, in the order given; natural logarithms.
    """
    scorer = LabelScorer(model, token_budget=token_budget)
    found = scorer.score(queries, unvisited=0.0, progress=progress)
    return [scores.log_likelihood.tolist() for scores in found]


def _check_query(query: Encoded, trie: Trie, name: str, rows: int, limit: int | None) -> None:
    if not query.prompt or not query.answers or trie.empty:
        raise MultitaskError(f"query {name}: the prompt or an answer has no tokens")
    highest = max(max(query.prompt), trie.highest)  # noqa: PLW3301 - prompts are long
    if highest >= rows:
        raise MultitaskError(
            f"query {name} has the token {highest}, but the model knows {rows} tokens alone",
            fix="use the tokenizer that belongs to the model",
        )
    longest = len(query.prompt) + trie.tallest
    if limit is not None and longest > limit:
        raise MultitaskError(
            f"query {name} has {longest} tokens with its longest answer; the model reads {limit}",
            fix="truncate the prompts",
        )


def _check_finite(values: Floats, query: Ints, targets: Targets, names: Sequence[str]) -> None:
    if np.isfinite(values).all():
        return
    first = int(np.argmin(np.isfinite(values)))
    raise NotFiniteError(
        f"the model gave a score that is not finite for row {names[query[targets.pair[first]]]!r}",
        fix="check the weights for NaN; in float16, load the model in bfloat16 or float32",
    )
