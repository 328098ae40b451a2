"""Ways of reading label trees with a model; import late, since it needs torch and transformers.

Each reader has ``start`` (read a batch of prompts; the logits after each), ``extend`` (read nodes;
the log-probabilities of a step's targets) and ``room`` (tokens that a query can be asked to read at
once). `plain_score` is what all of them are held to.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import BaseModelOutput

from multitask.scoring.encode import Encoded, Tokens
from multitask.scoring.label_tree import (
    Floats,
    Forest,
    Ints,
    Targets,
    paths,
    runs,
    with_ancestors,
)

# What a forward costs beside its tokens, in tokens, by whether it is on a CPU: on a GPU small ones
# cost as much as large.
_FORWARD_COST = {True: 64, False: 512}
# A CPU is fastest while what passes between layers stays in its cache.
_FORWARD_TOKENS = {True: 2048, False: 16384}
_MOST_LOGITS = 1 << 28  # at once; a gibibyte of them is enough


def accepts(model: Any, name: str) -> bool:
    """Whether a model's forward takes an argument."""
    return name in inspect.signature(model.forward).parameters


def log_probabilities(logits: Any, row: Ints, column: Ints, token: Ints) -> Floats:
    """Log-probabilities of tokens, each predicted at a row and column of the logits.

    The logits, of shape (rows, columns, vocabulary), are overwritten. The token -1 stands for
    none; its log-probability is 0.
    """
    # Many tokens are asked of one place (all children of a branch): its sum is taken once.
    places, which = np.unique(row * logits.shape[1] + column, return_inverse=True)
    which = which.reshape(-1)
    flat = logits.reshape(-1, logits.shape[-1])
    if 2 * len(places) < len(flat):
        flat = flat[torch.from_numpy(places).to(flat.device)]
    else:
        which = places[which]
    flat = flat.float()
    at = torch.from_numpy(which).to(flat.device)
    chosen = flat[at, torch.from_numpy(np.maximum(token, 0)).to(flat.device)]
    # In place: half the time of logsumexp, which fills the memory anew at every step.
    highest = flat.amax(-1, keepdim=True)
    total = flat.sub_(highest).exp_().sum(-1).log_() + highest[:, 0]
    values = (chosen - total[at]).cpu().numpy().astype(np.float64)
    found: Floats = np.where(token < 0, 0.0, values)
    return found


def plain_score(model: Any, query: Encoded, label: int) -> float:
    """Log-likelihood of one label, by a forward over prompt and label without cache or padding."""
    answer = query.answers[label]
    ids = torch.tensor([query.prompt + answer[:-1]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(query.prompt) - 1 :]
        logs = logits.float().log_softmax(-1)
    return float(logs[torch.arange(len(answer)), torch.tensor(answer)].double().sum())


def even_blocks(widths: Ints, cost: int) -> list[tuple[int, int]]:
    """Rows and width of blocks such that padding and a ``cost`` each, in tokens, are least.

    The rows are as wide as ``widths`` says, descending.
    """
    values, counts = np.unique(-widths, return_counts=True)
    total = np.concatenate([[0], np.cumsum(counts)])
    least, begin = [0.0], [0]
    for end in range(1, len(values) + 1):
        costs = np.array(least) + cost + (total[end] - total[:end]) * -values[:end]
        begin.append(int(costs.argmin()))
        least.append(float(costs.min()))
    blocks: list[tuple[int, int]] = []
    end = len(values)
    while end:
        first = begin[end]
        blocks.append((int(total[end] - total[first]), int(-values[first])))
        end = first
    return blocks[::-1]


class _SlabLayer(CacheLayerMixin):
    """Keys and values of one layer: (rows, heads, columns, width)."""

    is_sliding = False

    def __init__(self, slab: _Slab) -> None:
        super().__init__()
        self._slab = slab

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        rows, columns = self._slab.capacity
        # Zeros, since what a mask hides must still be finite.
        self.keys, self.values = (
            like.new_zeros(rows, like.shape[1], columns, like.shape[3])
            for like in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write new columns into the rows at work; return all columns of these rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, begin = self._slab.rows, self._slab.length
        end = begin + key_states.shape[-2]
        self.keys[rows, :, begin:end] = key_states
        self.values[rows, :, begin:end] = value_states
        return self.keys[rows, :, :end], self.values[rows, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slab.length + query_length, 0

    def get_seq_length(self) -> int:
        return self._slab.length

    def get_max_length(self) -> int:
        return -1

    def move(self, rows: Any, begin: int, end: int) -> None:
        """Move rows to the front, columns from ``begin`` to ``end`` alone."""
        rows = rows.to(self.keys.device)  # layers may be on different devices
        for held in (self.keys, self.values):
            held[: len(rows), :, begin:end] = held[rows, :, begin:end]

    def resize(self, source: slice, kept: int) -> None:
        """Take the slab's capacity; rows get the first columns of the source rows."""
        keys, values = self.keys, self.values
        self.lazy_initialization(keys, values)
        self.keys[:, :, :kept] = keys[source, :, :kept]
        self.values[:, :, :kept] = values[source, :, :kept]


class _Slab(Cache):
    """A key-value cache that is allocated once and written in place.

    transformers' own copies all of its content at every forward. Here a prefix that all prompts
    share is written once and stays, whatever batch follows.

    Attributes:
        capacity: Rows and columns allocated.
        rows: Rows that the next forward works on.
        length: Columns in use.
    """

    def __init__(self, columns: int) -> None:
        super().__init__(layer_class_to_replicate=partial(_SlabLayer, self))
        self.capacity = (1, columns)
        self.rows = slice(0, 1)
        self.length = 0

    def reserve(self, columns: int, better: int) -> None:
        """Make room for so many columns; if there must be more room, for ``better``."""
        if columns > self.capacity[1]:
            self._take((self.capacity[0], better), slice(None), self.length)

    def begin(self, rows: int, columns: int, shared: int, *, most: int) -> None:
        """Begin a batch whose rows share what row 0 has in its first columns.

        What is allocated stays, up to ``most`` cells: new memory costs a CPU as much as a layer.
        """
        held, width = self.capacity
        if rows > held or columns > width:
            wide = max(rows, held), max(columns, width)
            self._take(wide if wide[0] * wide[1] <= most else (rows, columns), slice(1), shared)
        self.rows, self.length = slice(0, rows), shared

    def _take(self, capacity: tuple[int, int], source: slice, kept: int) -> None:
        self.capacity = capacity
        for layer in self.layers:
            layer.resize(source, kept)

    def keep(self, rows: Any, begin: int) -> None:
        """Keep these rows alone, at the front; columns before ``begin`` are alike in all."""
        for layer in self.layers:
            layer.move(rows, begin, self.length)


class TreeReader:
    """All nodes of a query in one sequence after its cached prompt.

    A mask lets each node see its ancestors alone; the model's positions must be explicit. One
    reader serves all batches of prompts that begin with the same prefix: the prefix is computed
    once and its keys and values stay in place.
    """

    def __init__(self, model: Any, prefix: Tokens, *, budget: int, tallest: int) -> None:
        """Compute the prefix that all prompts begin with, shorter than every one of them.

        ``budget`` bounds the tokens of prompts held at once; of trie nodes it may be four times
        as many. ``tallest`` are the tokens of the longest label.
        """
        self._model = model
        self._prefix = len(prefix)
        self._budget, self._tallest = budget, tallest
        self._usual = 32  # columns that the trees of a batch take
        self._cache = _Slab(max(1, len(prefix)))
        self._last = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
        cpu = model.device.type == "cpu"
        self._cost, self._tokens = _FORWARD_COST[cpu], _FORWARD_TOKENS[cpu]
        if prefix:
            sees = torch.ones(1, len(prefix), len(prefix), dtype=torch.bool, device=model.device)
            positions = np.arange(len(prefix))[None]
            self._forward(np.array([prefix]), positions, sees.tril(), self._last)

    def start(self, prompts: Sequence[Tokens], forest: Forest) -> Any:
        """Read a batch of prompts, longest first; logits after each, (prompts, vocabulary)."""
        head, count = self._prefix, len(prompts)
        lengths = np.array([len(prompt) for prompt in prompts]) - head
        width = int(lengths.max())
        pads = width - lengths
        tokens = _padded([prompt[head:] for prompt in prompts], left=True)
        positions = np.maximum(np.arange(width) - pads[:, None], 0) + head
        self._most = max(2 * self._tallest + 16, min(1024, 4 * self._budget // count))
        room = head + width + min(self._most, self._usual)
        self._cache.begin(count, room, head, most=5 * self._budget)
        self._forest, self._pads, self._lengths = forest, pads, lengths + head
        self._first = head + width
        self._row = np.arange(count)  # of each query, in the cache
        self._column = np.full((count, forest.width), -1)  # where each node read begins
        self._sees = np.zeros((count, 0, 0), bool)  # which tree token sees which
        column = torch.arange(width, device=self._model.device)
        causal = (column[None, :] <= column[:, None])[None]
        logits = []
        # Rows end in the same column, so that shorter ones can be read in narrower forwards.
        for part, narrow in self._parts(even_blocks(lengths, self._cost), self._tokens):
            last = slice(width - narrow, width)
            self._cache.rows, self._cache.length = part, head + width - narrow
            pad = torch.tensor(pads[part], device=self._model.device)[:, None, None]
            seen = causal[:, last] & (column >= pad)
            seen = torch.cat([seen.new_ones(()).expand(len(seen), narrow, head), seen], dim=2)
            found = self._forward(tokens[part, last], positions[part, last], seen, self._last)
            logits.append(found[:, -1])
        return torch.cat(logits)

    @staticmethod
    def _parts(blocks: list[tuple[int, int]], tokens: int) -> Iterator[tuple[slice, int]]:
        """Rows of each forward and their width, so many tokens at once."""
        low = 0
        for count, width in blocks:
            end = low + count
            while low < end:
                part = slice(low, min(low + max(1, tokens // width), end))
                yield part, width
                low = part.stop

    @property
    def room(self) -> int:
        """Tokens that a query can be asked to read at once."""
        return self._most - self._tallest

    def extend(self, query: Ints, node: Ints, targets: Targets) -> Floats:
        """Log-probability of each target after reading the nodes; see `Search.targets`."""
        forest = self._forest
        reading = with_ancestors(forest, query, node, self._column)
        feed = forest.get("feed", *reading)
        if self._sees.shape[1] + int(np.bincount(reading[0], feed).max()) > self._most:
            # Forget what was read of the trees; the ancestors needed are read again.
            self._column.fill(-1)
            self._cache.length = self._first
            self._sees = self._sees[:, :0, :0]
            reading = with_ancestors(forest, query, node, self._column)
            feed = forest.get("feed", *reading)
        self._arrange(reading[0], feed)
        begin = self._read(*reading, feed)
        key = forest.width
        pair = np.searchsorted(reading[0] * key + reading[1], query * key + node)
        row = self._row[query[targets.pair]]
        return self._values(row, begin[pair[targets.pair]] + targets.place, targets.token)

    def _read(self, query: Ints, node: Ints, feed: Ints) -> Ints:
        """Lay out the tokens of sorted pairs, one slot each; the first column of each pair."""
        forest = self._forest
        pair, place = runs(feed)
        owner = query[pair]
        row, depth = self._row[owner], forest.get("depth", query, node)[pair] + place
        column = np.arange(len(row)) - np.searchsorted(owner, owner)
        begin: Ints = column[np.minimum(np.cumsum(feed) - feed, len(column) - 1)]
        used = self._sees.shape[1]
        self._column[query, node] = used + begin
        parent = forest.get("parent", query, node)
        last = self._column[query, parent] + forest.get("feed", query, parent) - 1
        last = np.where(parent == 0, -1, last)
        shape = len(self._sees), int(column.max()) + 1
        tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        above = np.full(shape, -1)
        tokens[row, column] = forest.tokens[forest.get("start", query, node)[pair] + place]
        positions[row, column] = self._lengths[owner] + depth
        above[row, column] = np.where(place > 0, used + column - 1, last[pair])
        self._see(above)
        self._step = tokens, positions
        return begin

    def _see(self, above: Ints) -> None:
        """Extend the table of which tree token sees which by tokens with the given predecessors."""
        rows, width = above.shape
        used = self._sees.shape[1]
        sees = np.zeros((rows, used + width, used + width), bool)
        sees[:, :used, :used] = self._sees
        every = np.arange(rows)
        for i in range(width):
            known = above[:, i] >= 0
            sees[known, used + i] = sees[every[known], above[known, i]]
            sees[:, used + i, used + i] = True
        self._sees = sees

    def _values(self, row: Ints, column: Ints, token: Ints) -> Floats:
        """Read the step's tokens; the log-probabilities of some."""
        tokens, positions = self._step
        begin = self._cache.length
        # Growing copies all that is there, so it is done by half at once.
        end = begin + tokens.shape[1]
        self._cache.reserve(end, max(end, min(end * 3 // 2, self._first + self._most)))
        values = np.zeros(len(token))
        # Logits of all slots exist at once.
        most = _MOST_LOGITS // self._model.config.get_text_config().vocab_size
        for part, width in self._parts(self._blocks, min(most, self._tokens)):
            self._cache.rows, self._cache.length = part, begin
            mask = self._mask(part, width)
            logits = self._forward(tokens[part, :width], positions[part, :width], mask, {})
            here = (row >= part.start) & (row < part.stop)
            values[here] = log_probabilities(
                logits, row[here] - part.start, column[here], token[here]
            )
        self._cache.length = end
        self._usual = max(self._usual, end - self._first)
        return values

    def _mask(self, part: slice, width: int) -> Any:
        """What the newest tokens of some rows see: (rows, width, columns)."""
        device = self._model.device
        newest = self._cache.length - self._first
        sees = self._sees[part, newest : newest + width, : newest + width]
        pads = torch.tensor(self._pads[part], device=device)[:, None]
        prompt = torch.arange(self._first - self._prefix, device=device)[None] >= pads
        prompt = torch.cat([prompt.new_ones(len(pads), self._prefix), prompt], 1)
        tree = torch.from_numpy(sees).to(device)
        return torch.cat([prompt[:, None].expand(-1, width, -1), tree], dim=2)

    def _arrange(self, query: Ints, tokens: Ints) -> None:
        """Put rows that read alike many tokens side by side, and leave out those that are done.

        Rows of a forward are padded to the widest; a few that read much must not widen all.
        """
        active, which = np.unique(query, return_inverse=True)
        widths = np.bincount(which.reshape(-1), tokens).astype(np.int64)
        order = np.argsort(-widths, kind="stable")
        self._blocks = even_blocks(widths[order], self._cost)
        if len(self._blocks) == 1 and len(active) > 0.7 * len(self._sees):
            self._blocks = [(len(self._sees), int(widths.max()))]
            return
        rows = self._row[active[order]]
        self._cache.keep(torch.from_numpy(rows).to(self._model.device), self._prefix)
        self._row = np.full(len(self._row), -1)
        self._row[active[order]] = np.arange(len(active))
        self._sees, self._pads = self._sees[rows], self._pads[rows]

    def _forward(self, tokens: Ints, positions: Ints, sees: Any, keep: dict[str, int]) -> Any:
        model, cache = self._model, self._cache
        # Quantised weights have no such type themselves; embeddings keep the one of activations.
        dtype = model.get_input_embeddings().weight.dtype
        mask = torch.zeros(sees.shape, dtype=dtype, device=model.device)
        mask.masked_fill_(~sees, torch.finfo(dtype).min)
        logits = model(
            input_ids=torch.from_numpy(tokens).to(model.device),
            attention_mask=mask[:, None],
            position_ids=torch.from_numpy(positions).to(model.device),
            past_key_values=cache,
            use_cache=True,
            **keep,
        ).logits
        cache.length += tokens.shape[1]
        return logits


class _PathReader(ABC):
    """Nodes as rows, one whole path from the prompt's end to a node each."""

    def __init__(self, model: Any, *, budget: int) -> None:
        """Read with ``model``, at most ``budget`` tokens at once."""
        self._model, self._budget = model, budget
        self._forest: Forest
        self._lengths: Ints

    @property
    def room(self) -> int:
        """Tokens that a query can be asked to read at once."""
        return max(64, self._budget // 8)

    def extend(self, query: Ints, node: Ints, targets: Targets) -> Floats:
        """Log-probability of each target after reading the nodes; see `Search.targets`."""
        found, covered = paths(self._forest, query, node)
        depth = self._forest.get("depth", query, node)
        path, column = covered[targets.pair], depth[targets.pair] + targets.place
        values = np.zeros(len(path))
        for chosen in self._chunks(found):
            logits, offset = self._read([found[i] for i in chosen])
            place = np.full(len(found), -1)
            place[chosen] = np.arange(len(chosen))
            here = place[path] >= 0
            row = place[path[here]]
            values[here] = log_probabilities(
                logits, row, column[here] + offset[row], targets.token[here]
            )
        return values

    def _chunks(self, found: list[tuple[int, list[int]]]) -> Iterator[list[int]]:
        """Paths of like length together, within the budget."""
        vocabulary = self._model.config.get_text_config().vocab_size
        chunk: list[int] = []
        longest = 0
        for i in sorted(range(len(found)), key=lambda i: len(found[i][1])):
            width, size = len(found[i][1]), len(chunk) + 1
            longest = max(longest, int(self._lengths[found[i][0]]))
            tokens = size * (longest + width)
            if chunk and (tokens > self._budget or size * width * vocabulary > _MOST_LOGITS):
                yield chunk
                chunk, longest = [], int(self._lengths[found[i][0]])
            chunk.append(i)
        if chunk:
            yield chunk

    @abstractmethod
    def _read(self, rows: list[tuple[int, list[int]]]) -> tuple[Any, Ints]:
        """Logits of rows, and in which column the logits of a row's first path token are."""

    def _tensor(self, array: Ints) -> Any:
        return torch.from_numpy(array).to(self._model.device)


class CachedReader(_PathReader):
    """Every path continues a copy of its prompt's cache, of whatever kind that is."""

    def __init__(self, model: Any, *, budget: int, stepwise: bool = False) -> None:
        """Read with ``model``; ``stepwise``: one token at a time, as recurrent layers want it."""
        super().__init__(model, budget=budget)
        self._stepwise = stepwise
        self._name = "cache_params" if accepts(model, "cache_params") else "past_key_values"

    def start(self, prompts: Sequence[Tokens], forest: Forest) -> Any:
        """Read a batch of prompts; logits after each, (prompts, vocabulary)."""
        self._forest = forest
        self._lengths = np.array([len(prompt) for prompt in prompts])
        tokens = _padded(prompts, left=True)
        self._mask = (np.arange(tokens.shape[1])[::-1] < self._lengths[:, None]).astype(np.int64)
        positions = np.maximum(self._mask.cumsum(1) - 1, 0)
        out = self._forward(tokens, self._mask, positions, None, last=True)
        self._cache = out[self._name]
        return out.logits[:, -1]

    def _read(self, rows: list[tuple[int, list[int]]]) -> tuple[Any, Ints]:
        query = np.array([q for q, _ in rows])
        tokens = _padded([path for _, path in rows])
        lengths = np.array([len(path) for _, path in rows])
        seen = np.arange(tokens.shape[1]) < lengths[:, None]
        mask = np.concatenate([self._mask[query], seen.astype(np.int64)], axis=1)
        prompt = self._mask.shape[1]
        positions = self._lengths[query][:, None] + np.arange(tokens.shape[1])
        cache = _select(self._cache, self._tensor(query))
        step = 1 if self._stepwise else tokens.shape[1]
        logits = []
        for low in range(0, tokens.shape[1], step):
            part = slice(low, low + step)
            known = mask[:, : prompt + low + step]
            out = self._forward(tokens[:, part], known, positions[:, part], cache)
            cache = out[self._name]
            logits.append(out.logits)
        return torch.cat(logits, dim=1), np.zeros(len(rows), np.int64)

    def _forward(
        self, tokens: Ints, mask: Ints, positions: Ints, cache: Any, *, last: bool = False
    ) -> Any:
        model = self._model
        options: dict[str, Any] = {self._name: cache} if cache is not None else {}
        if accepts(model, "position_ids"):
            options["position_ids"] = self._tensor(positions)
        if last and accepts(model, "logits_to_keep"):
            options["logits_to_keep"] = 1
        if not self._stepwise:
            options["attention_mask"] = self._tensor(mask)
        return model(input_ids=self._tensor(tokens), use_cache=True, **options)


class PlainReader(_PathReader):
    """Every path is read with its prompt, without a cache: slow, and right for any causal model."""

    def start(self, prompts: Sequence[Tokens], forest: Forest) -> Any:
        """Read a batch of prompts; logits after each, (prompts, vocabulary)."""
        self._forest, self._prompts = forest, prompts
        self._lengths = np.array([len(prompt) for prompt in prompts])
        logits, last = self._read([(i, []) for i in range(len(prompts))])
        return logits[torch.arange(len(prompts), device=logits.device), self._tensor(last - 1)]

    def _read(self, rows: list[tuple[int, list[int]]]) -> tuple[Any, Ints]:
        whole = [[*self._prompts[q], *path] for q, path in rows]
        tokens, lengths = _padded(whole), self._lengths[[q for q, _ in rows]]
        ends = np.array([len(sequence) for sequence in whole])
        mask = (np.arange(tokens.shape[1]) < ends[:, None]).astype(np.int64)
        options: dict[str, Any] = {}
        dropped = 0
        if accepts(self._model, "logits_to_keep"):
            dropped = int(lengths.min()) - 1
            options["logits_to_keep"] = tokens.shape[1] - dropped
        logits = self._model(
            input_ids=self._tensor(tokens),
            attention_mask=self._tensor(mask),
            use_cache=False,
            **options,
        ).logits
        return logits, lengths - dropped


class EncoderDecoderReader(_PathReader):
    """The encoder reads each prompt once; the decoder reads the paths."""

    def start(self, prompts: Sequence[Tokens], forest: Forest) -> Any:
        """Encode a batch of prompts; the decoder's first logits, (prompts, vocabulary)."""
        self._forest = forest
        self._lengths = np.array([len(prompt) for prompt in prompts])
        tokens = _padded(prompts)
        mask = np.arange(tokens.shape[1]) < self._lengths[:, None]
        self._mask = self._tensor(mask.astype(np.int64))
        encoder = self._model.get_encoder()
        states = encoder(input_ids=self._tensor(tokens), attention_mask=self._mask)
        self._states = states.last_hidden_state.to(self._model.device)
        logits, _ = self._read([(i, []) for i in range(len(prompts))])
        return logits[:, 0]

    def _read(self, rows: list[tuple[int, list[int]]]) -> tuple[Any, Ints]:
        begin = self._model.config.decoder_start_token_id
        query = self._tensor(np.array([q for q, _ in rows]))
        logits = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._states[query]),
            attention_mask=self._mask[query],
            decoder_input_ids=self._tensor(_padded([[begin, *path] for _, path in rows])),
            use_cache=False,
        ).logits
        return logits, np.ones(len(rows), np.int64)


def _select(cache: Any, rows: Any) -> Any:
    """A copy of some rows of a cache; forwards on it leave the original as it is."""
    chosen = copy.copy(cache)
    chosen.layers = []
    for layer in cache.layers:
        mine = copy.copy(layer)
        # A recurrent layer keeps its states in dictionaries, which a shallow copy would share.
        for name, value in vars(layer).items():
            if isinstance(value, dict):
                setattr(mine, name, dict(value))
        mine.reorder_cache(rows)
        chosen.layers.append(mine)
    return chosen


def _padded(sequences: Sequence[Sequence[int]], *, left: bool = False) -> Ints:
    width = max(len(sequence) for sequence in sequences)
    tokens = np.zeros((len(sequences), width), np.int64)
    for row, sequence in zip(tokens, sequences, strict=True):
        begin = width - len(sequence) if left else 0
        row[begin : begin + len(sequence)] = sequence
    return tokens
