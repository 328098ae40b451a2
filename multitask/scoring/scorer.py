"""Requests to a model: which candidate is the most probable answer, and how probable each is.

A prompt is computed once, what all prompts share once for all; the candidates are read as a tree,
best first, so that a model which knows the answer reads little more than that answer. See
`label_tree` for why the result is exact all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from multitask.errors import MultitaskError
from multitask.formatting import first_line
from multitask.scoring.encode import Encoded, Encoder, Tokens
from multitask.scoring.label_tree import (
    Floats,
    Forest,
    Ints,
    Search,
    Targets,
    Trie,
    build_trie,
)
from multitask.scoring.model import Capability, LoadedModel, Method, capability_of, position_limit

if TYPE_CHECKING:
    from multitask.scoring.readers import (
        CachedReader,
        EncoderDecoderReader,
        PlainReader,
        TreeReader,
    )

    Reader = TreeReader | CachedReader | PlainReader | EncoderDecoderReader

Progress = Callable[[int], None]

FULL_DISTRIBUTION = 3e-3
MAX_NEW_TOKENS = 128
_TOKEN_BUDGET = 16384
# An answer to encode a prompt with that has no known one.
_ANY = ("A",)
_MOST_ROWS = 512
_MOST_GENERATED_ROWS = 64
_MOST_TRIES = 1024
# What a batch of its own costs, in tokens of padding.
_BATCH_COST = 4096
# A prefix shorter than this is not worth a forward of its own; a group of fewer queries is not
# worth a prefix of its own.
_SHORTEST_PREFIX = 4
_FEWEST_QUERIES = 16
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


@dataclass(frozen=True, eq=False)
class _Asked:
    """Queries in tokens, and what is wanted of them; see `Scorer.score`."""

    queries: Sequence[Encoded]
    tries: Sequence[Trie]
    ids: Sequence[str]
    max_residual: float | None
    gold: Ints | None
    ranks: int


class Scorer:
    """Puts requests to a model.

    Attributes:
        notes: What did not go the fastest way, and why, in words for a report.
        token_budget: Tokens held at once; halves whenever memory runs out.
        method: How labels are read. None: the fastest that is right for the architecture; the
            first batch is compared with a plain forward, and where they differ the next slower
            method is set here.
    """

    def __init__(self, loaded: LoadedModel, *, token_budget: int | None = None) -> None:
        """Ask ``loaded``; ``token_budget`` bounds the tokens of a batch."""
        self.notes: list[str] = []
        self.token_budget = token_budget or _TOKEN_BUDGET
        self.method: Method | None = None
        self._loaded = loaded
        self._model = loaded.model
        self._checked = {Method.PLAIN, Method.ENCODER_DECODER}
        self._tries: dict[tuple[Tokens, ...], Trie] = {}
        # The last one: a prefix that the next rows begin with as well is not read again.
        self._reader: tuple[Any, Reader] | None = None

    @cached_property
    def _encoder(self) -> Encoder:
        return self._loaded.encoder()

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
                together hold at most that much of the probability of those scored. None: what
                proves the best one.
            ranks: With a share: whether, and where, gold is among so many of the most probable
                candidates is wanted too.
            progress: Told how many rows are done.

        Raises:
            InputError: Two candidates have the same tokens.
            MultitaskError: The model gave a number that is not finite, a token is beyond its
                vocabulary or positions, or memory does not suffice; the row is named.
        """
        gold = [request.gold for request in requests]
        return self.score_tokens(
            self._encoded(requests),
            [request.id for request in requests],
            max_residual=max_residual,
            gold=[i for i in gold if i is not None] if max_residual and None not in gold else None,
            ranks=ranks,
            progress=progress,
        )

    def generate(
        self,
        requests: Sequence[Request],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        progress: Progress = lambda _: None,
    ) -> Scores:
        """Answer requests freely, token by token, always with the most probable one.

        Raises:
            MultitaskError: The model gives a number that is not finite, or memory does not suffice
                for one row.
        """
        if not requests:
            return Scores.join([])
        prompts, texts = [r.prompt for r in requests], [r.text for r in requests]
        encoder = self._loaded.encoder(room=max_new_tokens)
        queries = encoder.encode_all(prompts, _ANY, texts=texts)
        # Greedy decoding takes NaN for a number; a score shows it.
        first = min(range(len(queries)), key=lambda i: len(queries[i].prompt))
        self.score_tokens([queries[first]], [requests[first].id])
        self._reader = None  # its cache would be in the way
        answers = [""] * len(queries)
        # Longest first: what does not fit should fail at once.
        pending = sorted(range(len(queries)), key=lambda i: -len(queries[i].prompt))
        while pending:
            longest = len(queries[pending[0]].prompt)
            size = max(1, self.token_budget // (longest + max_new_tokens))
            batch = pending[: min(_MOST_GENERATED_ROWS, size)]
            try:
                found = self._continued([queries[i].prompt for i in batch], max_new_tokens)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(len(batch), longest, max_new_tokens)
                continue
            for i, answer in zip(batch, found, strict=True):
                answers[i] = answer.strip()
            del pending[: len(batch)]
            progress(len(queries) - len(pending))
        return Scores.generated(answers, np.array([query.dropped for query in queries], np.int64))

    def _continued(self, prompts: Sequence[Tokens], max_new_tokens: int) -> list[str]:
        """What follows prompts until the turn ends, without special tokens."""
        import torch

        model, tokenizer, width = self._model, self._loaded.tokenizer, max(map(len, prompts))
        pad = tokenizer.pad_token_id or 0  # masked, so any will do
        ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        with torch.inference_mode():
            out = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
            )
        # An encoder-decoder returns the answer alone.
        begin = 0 if model.config.is_encoder_decoder else width
        texts: list[str] = tokenizer.batch_decode(out[:, begin:], skip_special_tokens=True)
        return texts

    def longest(self, candidates: Sequence[str]) -> int:
        """Tokens of the longest of some answers, the end of the turn included."""
        return max(map(len, self._encoder.encode("x", candidates, repeats=True).answers))

    def _encoded(self, requests: Sequence[Request]) -> list[Encoded]:
        """The requests in tokens, those that share their candidates together."""
        groups: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(id(request.candidates), []).append(i)
        queries: dict[int, Encoded] = {}
        for members in groups.values():
            some = [requests[i] for i in members]
            found = self._encoder.encode_all(
                [request.prompt for request in some],
                some[0].candidates,
                texts=[request.text for request in some],
                repeats=not some[0].distinct,
            )
            queries |= zip(members, found, strict=True)
        return [queries[i] for i in range(len(requests))]

    def score_tokens(
        self,
        queries: Sequence[Encoded],
        ids: Sequence[str] = (),
        *,
        max_residual: float | None = 0.0,
        gold: Sequence[int] | None = None,
        ranks: int = 0,
        progress: Progress = lambda _: None,
    ) -> Scores:
        """Score queries that are tokens already; see `score`."""
        import torch

        if not queries:
            return Scores.join([])
        # Thousands of labels are slow to hash, and the rows of a task share one tuple.
        shared = {id(query.answers): query.answers for query in queries}
        known = {key: self._trie(answers) for key, answers in shared.items()}
        tries = [known[id(query.answers)] for query in queries]
        leaves = None
        if gold is not None:
            leaves = np.array([t.leaf_of[i] for t, i in zip(tries, gold, strict=True)], np.int64)
        names = ids or [str(i) for i in range(len(queries))]
        asked = _Asked(queries, tries, names, max_residual, leaves, ranks)
        capability = self._capability(_longest(self._model, asked))
        groups = groups_of(
            [query.prompt for query in queries],
            share=capability.method is Method.TREE,
            equal=capability.equal_lengths,
        )
        scores = _unfilled(queries)
        done = 0
        with torch.inference_mode():
            for prefix, order in groups:
                for batch, search in self._score_group(prefix, order, asked, capability):
                    _fill(scores, np.array(batch), search)
                    done += len(batch)
                    progress(done)
        return scores

    def _capability(self, longest: int) -> Capability:
        capability = capability_of(self._model, longest)
        if self.method is None and capability.reason:
            self._note(f"labels are read by the {capability.method} method: {capability.reason}")
        return capability

    def _score_group(
        self, prefix: Tokens, order: list[int], asked: _Asked, capability: Capability
    ) -> Iterator[tuple[list[int], Search]]:
        """Score a group batch by batch; smaller ones when memory runs out."""
        from multitask.scoring.readers import even_blocks

        pending, queries = list(order), asked.queries
        lengths = np.array([len(queries[i].prompt) - len(prefix) for i in pending])
        blocks = even_blocks(lengths, _BATCH_COST)
        tallest = max(asked.tries[i].tallest for i in pending)
        while pending:
            method = self.method or capability.method
            alike, longest = blocks[0][0], len(queries[pending[0]].prompt)
            size = min(alike, _MOST_ROWS, max(1, self.token_budget // (longest + 16)))
            batch = pending[:size]
            slower = None if method in self._checked else _SLOWER.get(method)
            try:
                reader = self._reader_of(method, prefix, tallest, capability)
                search = _search(reader, asked, batch)
                wrong = self._difference(asked, batch, search) if slower else ""
            except (MemoryError, RuntimeError, ValueError, TypeError, MultitaskError) as error:
                self._reader = None
                if _is_out_of_memory(error):
                    self._halve(len(batch), longest, 16)
                    continue
                if slower is None:
                    raise
                wrong = first_line(error)
            if slower and wrong:
                self.method = slower
                self._note(
                    f"labels are read by the {slower} method, since the {method} one fails: {wrong}"
                )
                continue
            self._checked.add(method)
            del pending[:size]
            blocks[0] = (alike - size, 0)
            blocks = blocks[alike == size :]
            yield batch, search

    def _reader_of(
        self, method: Method, prefix: Tokens, tallest: int, capability: Capability
    ) -> Reader:
        from multitask.scoring import readers

        model, budget, stepwise = self._model, self.token_budget, capability.equal_lengths
        key = method, prefix, tallest, budget, stepwise
        if self._reader is not None and self._reader[0] == key:
            return self._reader[1]
        self._reader = None  # two at once may be more than the memory holds
        reader: Reader
        match method:
            case Method.TREE:
                reader = readers.TreeReader(model, prefix, budget=budget, tallest=tallest)
            case Method.CACHED:
                reader = readers.CachedReader(model, budget=budget, stepwise=stepwise)
            case Method.PLAIN:
                reader = readers.PlainReader(model, budget=budget)
            case Method.ENCODER_DECODER:
                reader = readers.EncoderDecoderReader(model, budget=budget)
        self._reader = key, reader
        return reader

    def _difference(self, asked: _Asked, batch: list[int], search: Search) -> str:
        """How scores of a batch differ from plain ones, in words; empty where they do not.

        Of the longest prompt, which may exceed a window, and of the shortest, for its padding, the
        best label and up to two others are compared.
        """
        import torch

        from multitask.scoring.readers import plain_score

        # Float32 sums differ by their order alone; in half precision every layer rounds.
        whole = self._model.dtype == torch.float32
        relative, absolute = (1e-4, 5e-4) if whole else (0.02, 0.3)
        for place in sorted({0, len(batch) - 1}):
            query, leaf_of = asked.queries[batch[place]], asked.tries[batch[place]].leaf_of
            scores = search.scores[place, leaf_of]
            known = np.flatnonzero(np.isfinite(scores))
            for label in {int(np.nanargmax(scores)), int(known[0]), int(known[-1])}:
                mine, right = float(scores[label]), plain_score(self._model, query, label)
                if not abs(mine - right) <= absolute + relative * abs(right):
                    return (
                        f"a label's log-likelihood is {mine:.4f} by it and {right:.4f} by the "
                        "plain one"
                    )
        return ""

    def _trie(self, answers: tuple[Tokens, ...]) -> Trie:
        """The trie of a label set, built once."""
        if answers not in self._tries:
            if len(self._tries) > _MOST_TRIES:
                self._tries.clear()
            self._tries[answers] = build_trie(answers)
        return self._tries[answers]

    def _halve(self, rows: int, longest: int, more: int) -> None:
        """Make batches smaller than these rows of a prompt and ``more`` tokens."""
        import torch

        if rows == 1:
            raise MultitaskError(
                f"memory does not suffice for one prompt of {longest} tokens",
                fix="shorten the prompts, load the model in 4 bits, or use a machine with more",
            )
        self.token_budget = min(self.token_budget, rows * (longest + more)) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._note(f"memory ran out; batches now hold {self.token_budget} tokens")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in said)


def _longest(model: Any, asked: _Asked) -> int:
    """Tokens of the longest prompt with its longest answer.

    Raises:
        MultitaskError: A query is not what the model can read.
    """
    limit, rows = position_limit(model), model.get_input_embeddings().num_embeddings
    highest_of = {id(trie): int(trie.tokens.max(initial=0)) for trie in asked.tries}
    longest = 0
    for query, trie, name in zip(asked.queries, asked.tries, asked.ids, strict=True):
        if not query.prompt or not query.answers or not trie.shortest:
            raise MultitaskError(f"query {name}: the prompt or an answer has no tokens")
        highest = max(max(query.prompt), highest_of[id(trie)])  # noqa: PLW3301 - prompts are long
        if highest >= rows:
            raise MultitaskError(
                f"query {name} has the token {highest}, but the model knows {rows} tokens alone",
                fix="use the tokenizer that belongs to the model",
            )
        length = len(query.prompt) + trie.tallest
        if limit is not None and length > limit:
            raise MultitaskError(
                f"query {name} has {length} tokens with its longest answer; the model reads "
                f"{limit}",
                fix="truncate the prompts",
            )
        longest = max(longest, length)
    return longest


def _search(reader: Reader, asked: _Asked, batch: list[int]) -> Search:
    """Read the labels of a batch until all that is wanted is known."""
    from multitask.scoring.readers import log_probabilities

    forest = Forest([asked.tries[i] for i in batch])
    gold = None if asked.gold is None else asked.gold[batch]
    search = Search(forest, max_residual=asked.max_residual, gold=gold, ranks=asked.ranks)
    logits = reader.start([asked.queries[i].prompt for i in batch], forest)[:, None]
    query, node = np.arange(len(batch)), np.zeros(len(batch), np.int64)
    targets = search.targets(query, node)
    row = query[targets.pair]
    values = log_probabilities(logits, row, np.zeros_like(row), targets.token)
    while True:
        _check_finite(values, query, targets, asked, batch)
        search.absorb(query, node, targets, values)
        if not len(search.active):
            return search
        query, node = search.select(reader.room)
        targets = search.targets(query, node)
        values = reader.extend(query, node, targets)


def _check_finite(
    values: Floats, query: Ints, targets: Targets, asked: _Asked, batch: list[int]
) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        row = asked.ids[batch[query[targets.pair[int(finite.argmin())]]]]
        raise MultitaskError(
            f"the model gave a score that is not finite for row {row!r}",
            fix="check the weights for NaN; in float16, load the model in bfloat16 or float32",
        )


def _unfilled(queries: Sequence[Encoded]) -> Scores:
    rows, width = len(queries), max(len(query.answers) for query in queries)
    return Scores(
        log_probs=np.full((rows, width), -np.inf),
        scored=np.zeros((rows, width), bool),
        residual_mass=np.zeros(rows),
        best=np.zeros(rows, np.int64),
        dropped=np.array([query.dropped for query in queries], np.int64),
    )


def _fill(scores: Scores, rows: Ints, search: Search) -> None:
    """Write what a search has found into some rows."""
    scores.residual_mass[rows] = residual = search.residual()
    shares = search.shares() if residual.any() else search.scores
    for number, trie in enumerate(search.forest.tries):
        mine, leaves = np.flatnonzero(search.forest.tree == number), trie.leaf_of
        own, at = search.scores[mine[:, None], leaves], rows[mine]
        known = ~np.isnan(own)
        scores.log_probs[at, : len(leaves)] = np.where(known, own, shares[mine[:, None], leaves])
        scores.scored[at, : len(leaves)] = known
        scores.best[at] = np.nanargmax(own, axis=1)


def groups_of(
    prompts: Sequence[Tokens], *, share: bool, equal: bool = False
) -> list[tuple[Tokens, list[int]]]:
    """Prompts that can share a batch: with ``equal``, those of the same length alone.

    Of each group what its prompts begin with, at least one token short of each and empty unless
    ``share``, such as a task's phrasing; and the prompts, longest first: what does not fit into
    memory should fail at once, not in the last minute.
    """
    every = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    if equal:
        by_length: dict[int, list[int]] = {}
        for i in every:
            by_length.setdefault(len(prompts[i]), []).append(i)
        return [((), found) for found in by_length.values()]
    return list(_split(prompts, every)) if share else [((), every)]


def _split(prompts: Sequence[Tokens], order: list[int]) -> Iterator[tuple[Tokens, list[int]]]:
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
        yield prompts[rest[0]][:shared] if worth else (), rest


def _shared(prompts: Sequence[Tokens], order: list[int]) -> int:
    """How many tokens all begin with, one short of the shortest at most."""
    low, high = min(prompts[i] for i in order), max(prompts[i] for i in order)
    end = min(len(prompts[order[-1]]), len(low), len(high)) - 1
    for place in range(end):
        if low[place] != high[place]:
            return place
    return end
