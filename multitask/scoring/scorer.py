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
from multitask.scoring.encode import Encoded, Encoder, LabelEncoder, PairEncoder, Tokens
from multitask.scoring.forward import is_out_of_memory, log_probabilities
from multitask.scoring.generate import generate
from multitask.scoring.model import LoadedModel
from multitask.scoring.plain import difference_from_plain
from multitask.scoring.rows import CachedReader, EncoderDecoderReader, PlainReader
from multitask.scoring.search import Search, Targets
from multitask.scoring.tree import TreeReader
from multitask.scoring.trie import Floats, Forest, Ints, Trie, build_trie

Progress = Callable[[int], None]
Reader = TreeReader | CachedReader | PlainReader | EncoderDecoderReader

DEFAULT_TOKEN_BUDGET = 16384
FULL_DISTRIBUTION = 3e-3
MAX_NEW_TOKENS = 128
# An answer to encode a prompt with that has no known one.
_ANY = ("A",)
_MOST_ROWS = 512
_MOST_TRIES = 16384
# What a batch of its own costs, in tokens of padding.
_BATCH_COST = 4096
_SLOWER = {Method.TREE: Method.CACHED, Method.CACHED: Method.PLAIN}


@dataclass(frozen=True)
class Request:
    """A prompt, and what may answer it.

    Attributes:
        id: The row's id, for messages.
        prompt: The user's message.
        candidates: The assistant's messages to choose from. Requests that share theirs share one
            tuple; none are needed to generate an answer.
        gold: Which candidate is right; None: not known.
        text: The part of the prompt that may be cut where it is longer than the context.
        distinct: Candidates of equal tokens are an error. Options of a question may repeat a
            text; both then have its score.
    """

    id: str
    prompt: str
    candidates: tuple[str, ...] = ()
    gold: int | None = None
    text: str = ""
    distinct: bool = True


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of requests, one row each.

    Attributes:
        log_probs: Log-likelihood of each candidate given the prompt, natural logarithm, summed
            over its tokens with the end of the turn, of shape (rows, candidates). A candidate
            that was not scored has an equal share of the bound on its branch of the label tree,
            one that a row does not have is -inf.
        scored: Which of them are a candidate's own, of the same shape.
        residual_mass: Upper bound of the share of the candidates' probability that lies on those
            not scored, in [0, 1), of shape (rows,).
        best: The most probable candidate, exact; of equals the first scored one; -1 where an
            answer was generated.
        dropped: Tokens of each prompt that were left out, since it was longer than the context.
        texts: The generated answers; empty where candidates were scored.
    """

    log_probs: Floats
    scored: NDArray[np.bool_]
    residual_mass: Floats
    best: Ints
    dropped: Ints
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.best)

    def take(self, rows: Sequence[int]) -> Scores:
        """Some of the rows, in the order given."""
        at = np.asarray(rows, np.int64)
        return Scores(
            self.log_probs[at],
            self.scored[at],
            self.residual_mass[at],
            self.best[at],
            self.dropped[at],
            tuple(self.texts[i] for i in at) if self.texts else (),
        )

    @classmethod
    def join(cls, parts: Sequence[Scores]) -> Scores:
        """Parts one after the other, as wide as the widest."""
        width = max((part.log_probs.shape[1] for part in parts), default=0)

        def wide(array: NDArray[Any], fill: Any) -> NDArray[Any]:
            space = ((0, 0), (0, width - array.shape[1]))
            return np.pad(array, space, constant_values=fill)

        if not parts:
            parts = [cls.generated((), np.zeros(0, np.int64))]
        return cls(
            np.concatenate([wide(part.log_probs, -np.inf) for part in parts]),
            np.concatenate([wide(part.scored, False) for part in parts]),
            np.concatenate([part.residual_mass for part in parts]),
            np.concatenate([part.best for part in parts]),
            np.concatenate([part.dropped for part in parts]),
            tuple(text for part in parts for text in part.texts),
        )

    @classmethod
    def generated(cls, texts: Sequence[str], dropped: Ints) -> Scores:
        """Generated answers, without candidates."""
        rows = len(texts)
        nothing = np.zeros((rows, 0))
        best = np.full(rows, -1, np.int64)
        return cls(nothing, nothing > 0, np.zeros(rows), best, dropped, tuple(texts))


class Scorer:
    """Puts requests to a model."""

    def __init__(self, loaded: LoadedModel, *, token_budget: int | None = None) -> None:
        """Ask ``loaded``; ``token_budget`` bounds the tokens of a batch."""
        self.loaded = loaded
        self._encoder = loaded.encoder()
        self._labels = LabelScorer(loaded.model, token_budget=token_budget or DEFAULT_TOKEN_BUDGET)

    @property
    def notes(self) -> list[str]:
        """What did not go the fastest way, and why, in words for a report."""
        return self._labels.notes

    def score(
        self,
        requests: Sequence[Request],
        *,
        max_residual: float | None = 0.0,
        ranks: int = 0,
        progress: Progress = lambda _: None,
    ) -> Scores:
        """Score every request's candidates.

        Args:
            requests: The requests, each with candidates.
            max_residual: How much of the distribution may stay unknown. 0: every candidate is
                scored. A share, such as `FULL_DISTRIBUTION`: gold is, and all but candidates that
                together hold at most that much probability. None: what proves the best one.
            ranks: With a share: whether, and where, gold is among so many of the most probable
                candidates is wanted too.
            progress: Told how many rows are done.

        Raises:
            InputError: Two candidates have the same tokens.
            MultitaskError: The model cannot score a row; it is named.
        """
        if not requests:
            return Scores.join([])
        queries = self._encoded(requests)
        gold = [-1 if request.gold is None else request.gold for request in requests]
        found = self._labels.score(
            queries,
            unvisited=max_residual,
            gold=gold if max_residual and min(gold) >= 0 else None,
            ranks=ranks,
            ids=[request.id for request in requests],
            progress=progress,
        )
        rows, width = len(found), max(len(query.answers) for query in queries)
        log_probs = np.full((rows, width), -np.inf)
        for row, scores in zip(log_probs, found, strict=True):
            own = scores.log_likelihood
            row[: len(own)] = np.where(np.isnan(own), scores.share, own)
        scored = np.zeros((rows, width), bool)
        for known, scores in zip(scored, found, strict=True):
            known[: len(scores.share)] = np.isnan(scores.share)
        relative = np.minimum([scores.unvisited for scores in found], 1e300)
        return Scores(
            log_probs,
            scored,
            np.minimum(relative / (1 + relative), np.nextafter(1, 0)),
            np.array([scores.best for scores in found], np.int64),
            np.array([query.dropped for query in queries], np.int64),
        )

    def generate(
        self,
        requests: Sequence[Request],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        progress: Progress = lambda _: None,
    ) -> Scores:
        """Answer requests freely, token by token, always with the most probable one.

        Args:
            requests: The requests; their candidates do not matter.
            max_new_tokens: Longest answer.
            progress: Told how many rows are done.

        Raises:
            MultitaskError: The model gives a number that is not finite; the row is named.
        """
        if not requests:
            return Scores.join([])
        encoder = _generating_encoder(self.loaded, max_new_tokens)
        queries = [encoder.encode(r.prompt, _ANY, text=r.text) for r in requests]
        # Greedy decoding takes NaN for a number; a score shows it.
        first = min(range(len(queries)), key=lambda i: len(queries[i].prompt))
        self._labels.score([queries[first]], unvisited=0.0, ids=[requests[first].id])
        texts = generate(
            self.loaded,
            [query.prompt for query in queries],
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        return Scores.generated(texts, np.array([query.dropped for query in queries], np.int64))

    def longest(self, candidates: Sequence[str]) -> int:
        """Tokens of the longest of some answers, the end of the turn included."""
        answers = self._encoder.encode("x", candidates, repeats=True).answers
        return max(map(len, answers))

    def _encoded(self, requests: Sequence[Request]) -> list[Encoded]:
        """The requests in tokens, those that share their candidates together."""
        groups: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(id(request.candidates), []).append(i)
        queries: dict[int, Encoded] = {}
        for members in groups.values():
            some = [requests[i] for i in members]
            if some[0].distinct:
                prompts, texts = [r.prompt for r in some], [r.text for r in some]
                found = self._encoder.encode_all(prompts, some[0].candidates, texts=texts)
            else:
                found = [
                    self._encoder.encode(r.prompt, r.candidates, text=r.text, repeats=True)
                    for r in some
                ]
            queries |= zip(members, found, strict=True)
        return [queries[i] for i in range(len(requests))]


def _generating_encoder(loaded: LoadedModel, max_new_tokens: int) -> LabelEncoder:
    """An encoder that leaves room for the answer; at least half the context is the prompt's."""
    context = loaded.context
    if getattr(loaded.model.config, "is_encoder_decoder", False):
        return PairEncoder(loaded.tokenizer, context=context)
    if context is not None:
        context = max(context - max_new_tokens, (context + 1) // 2)
    return Encoder(loaded.tokenizer, context=context)


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
