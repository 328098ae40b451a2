"""Label trees read path by path, for models that cannot take a whole tree in one sequence."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from multitask.scoring.encode import Tokens
from multitask.scoring.feed import paths
from multitask.scoring.forward import accepts, log_probabilities
from multitask.scoring.search import Targets
from multitask.scoring.trie import Floats, Forest, Ints


class _PathReader(ABC):
    """Reads nodes as rows, one whole path from the prompt's end to a node each."""

    def __init__(self, model: Any, *, budget: int) -> None:
        """Read with ``model``, at most ``budget`` tokens at once."""
        self._model = model
        self._budget = budget
        self._forest: Forest
        self._lengths: Ints

    @property
    def room(self) -> int:
        """Tokens that a query can be asked to read at once."""
        return max(64, self._budget // 8)

    def extend(self, query: Ints, node: Ints, targets: Targets) -> Floats:
        """Log-probability of each target after reading the nodes; see `Search.targets`."""
        forest = self._forest
        found, covered = paths(forest, query, node)
        depth = forest.get(forest.depth, query, node)
        path = covered[targets.pair]
        column = depth[targets.pair] + targets.place
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
        order = sorted(range(len(found)), key=lambda i: len(found[i][1]))
        chunk: list[int] = []
        longest = 0
        vocabulary = self._model.config.get_text_config().vocab_size
        for i in order:
            width = len(found[i][1])
            longest = max(longest, int(self._lengths[found[i][0]]))
            size = len(chunk) + 1
            if chunk and (
                size * (longest + width) > self._budget or size * width * vocabulary > 1 << 28
            ):
                yield chunk
                chunk, longest = [], int(self._lengths[found[i][0]])
            chunk.append(i)
        if chunk:
            yield chunk

    @abstractmethod
    def _read(self, rows: list[tuple[int, list[int]]]) -> tuple[Any, Ints]:
        """Logits of rows, and in which column the logits of a row's first path token are."""

    def _tensor(self, array: Ints) -> Any:
        import torch

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
        tokens, self._mask = _left_padded(prompts)
        self._lengths = self._mask.sum(1)
        positions = np.maximum(self._mask.cumsum(1) - 1, 0)
        out = self._forward(tokens, self._mask, positions, None, last=True)
        self._cache = out[self._name]
        return out.logits[:, -1]

    def _read(self, rows: list[tuple[int, list[int]]]) -> tuple[Any, Ints]:
        import torch

        query = np.array([q for q, _ in rows])
        tokens, mask = _right_padded([path for _, path in rows])
        positions = self._lengths[query][:, None] + np.arange(tokens.shape[1])
        cache = _select(self._cache, self._tensor(query))
        before = self._mask[query]
        step = 1 if self._stepwise else tokens.shape[1]
        logits = []
        for low in range(0, tokens.shape[1], step):
            part = slice(low, low + step)
            seen = np.concatenate([before, mask[:, : low + step]], axis=1)
            out = self._forward(tokens[:, part], seen, positions[:, part], cache)
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
        import torch

        self._forest = forest
        self._prompts = prompts
        self._lengths = np.array([len(prompt) for prompt in prompts])
        logits, _ = self._read([(i, []) for i in range(len(prompts))])
        last = self._tensor(self._lengths - 1 - self._dropped)
        return logits[torch.arange(len(prompts), device=logits.device), last]

    def _read(self, rows: list[tuple[int, list[int]]]) -> tuple[Any, Ints]:
        tokens, mask = _right_padded([[*self._prompts[q], *path] for q, path in rows])
        lengths = self._lengths[[q for q, _ in rows]]
        options: dict[str, Any] = {}
        self._dropped = 0
        if accepts(self._model, "logits_to_keep"):
            self._dropped = int(lengths.min()) - 1
            options["logits_to_keep"] = tokens.shape[1] - self._dropped
        logits = self._model(
            input_ids=self._tensor(tokens),
            attention_mask=self._tensor(mask),
            use_cache=False,
            **options,
        ).logits
        return logits, lengths - self._dropped


class EncoderDecoderReader(_PathReader):
    """The encoder reads each prompt once; the decoder reads the paths."""

    def start(self, prompts: Sequence[Tokens], forest: Forest) -> Any:
        """Encode a batch of prompts; the decoder's first logits, (prompts, vocabulary)."""
        self._forest = forest
        tokens, mask = _right_padded(prompts)
        self._lengths = mask.sum(1)
        self._mask = self._tensor(mask)
        self._states = self._model.get_encoder()(
            input_ids=self._tensor(tokens), attention_mask=self._mask
        ).last_hidden_state.to(self._model.device)
        logits, _ = self._read([(i, []) for i in range(len(prompts))])
        return logits[:, 0]

    def _read(self, rows: list[tuple[int, list[int]]]) -> tuple[Any, Ints]:
        from transformers.modeling_outputs import BaseModelOutput

        begin = self._model.config.decoder_start_token_id
        tokens, _ = _right_padded([[begin, *path] for _, path in rows])
        query = self._tensor(np.array([q for q, _ in rows]))
        logits = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._states[query]),
            attention_mask=self._mask[query],
            decoder_input_ids=self._tensor(tokens),
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


def _left_padded(sequences: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    tokens, mask = _right_padded([sequence[::-1] for sequence in sequences])
    return tokens[:, ::-1].copy(), mask[:, ::-1].copy()


def _right_padded(sequences: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    width = max(len(sequence) for sequence in sequences)
    tokens = np.zeros((len(sequences), width), np.int64)
    mask = np.zeros_like(tokens)
    for row, seen, sequence in zip(tokens, mask, sequences, strict=True):
        row[: len(sequence)] = sequence
        seen[: len(sequence)] = 1
    return tokens, mask
