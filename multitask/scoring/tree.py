"""Label trees after a shared cache of their prompts, all nodes of a query in one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from multitask.scoring.encode import Tokens
from multitask.scoring.feed import lay_out, with_ancestors
from multitask.scoring.forward import accepts, log_probabilities
from multitask.scoring.search import Targets
from multitask.scoring.trie import Floats, Forest, Ints


class TreeReader:
    """Reads prompts and trie nodes with a causal model whose positions are explicit.

    One reader serves all batches of prompts that begin with the same prefix: the prefix is
    computed once and its keys and values stay in place.
    """

    def __init__(self, model: Any, prefix: Tokens, *, rows: int, columns: int, most: int) -> None:
        """Compute the prefix.

        Args:
            model: The model.
            prefix: What all prompts begin with; shorter than every one of them.
            rows: Most prompts in a batch.
            columns: Most tokens of a prompt.
            most: Most tokens of trie nodes that a query holds at once.
        """
        from multitask.scoring.slab import SlabCache

        self._model = model
        self._prefix = len(prefix)
        self._most = most
        self._cache = SlabCache(rows, columns + min(most, 32))
        self._last = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
        if prefix:
            self._cache.rows = slice(0, 1)
            self._forward(np.array([prefix]), np.arange(len(prefix))[None], None, self._last)
            self._cache.spread(len(prefix))

    def start(self, prompts: Sequence[Tokens], forest: Forest) -> Any:
        """Read a batch of prompts; logits after each, (prompts, vocabulary)."""
        import torch

        head = self._prefix
        tails = [prompt[head:] for prompt in prompts]
        width = max(map(len, tails))
        lengths = np.array([len(tail) for tail in tails])
        tokens = np.zeros((len(tails), width), np.int64)
        for row, tail in zip(tokens, tails, strict=True):
            row[width - len(tail) :] = tail
        pads = width - lengths
        positions = np.maximum(np.arange(width) - pads[:, None], 0) + head
        self._cache.rows, self._cache.length = slice(0, len(tails)), head
        self._forest = forest
        self._pads = pads
        self._lengths = lengths + head
        self._first = head + width
        self._row = np.arange(len(tails))
        self._column = np.full((len(tails), forest.width), -1)
        self._sees = np.zeros((len(tails), 0, 0), bool)
        device = self._model.device
        column = torch.arange(width, device=device)
        seen = column[None, :] <= column[:, None]
        seen = seen[None] & (column[None, None] >= torch.tensor(pads, device=device)[:, None, None])
        before = seen.new_ones(()).expand(len(tails), width, head)
        mask = torch.cat([before, seen], dim=2)
        return self._forward(tokens, positions, mask, self._last)[:, -1]

    @property
    def room(self) -> int:
        """Tokens that a query can be asked to read at once."""
        return self._most - self._forest.tallest

    def extend(self, query: Ints, node: Ints, targets: Targets) -> Floats:
        """Log-probability of each target after reading the nodes; see `Search.targets`."""
        forest = self._forest
        self._drop_rows(np.unique(query))
        reading = with_ancestors(forest, query, node, self._column)
        widest = int(np.bincount(reading[0], forest.get(forest.feed, *reading)).max())
        if self._sees.shape[1] + widest > self._most:
            # Forget what was read of the trees; the ancestors needed are read again.
            self._column.fill(-1)
            self._cache.length = self._first
            self._sees = self._sees[:, :0, :0]
            reading = with_ancestors(forest, query, node, self._column)
        return self._read(*reading, query, node, targets)

    def _read(
        self, query: Ints, node: Ints, asked: Ints, asked_node: Ints, targets: Targets
    ) -> Floats:
        forest = self._forest
        slots = lay_out(forest, query, node)
        row = self._row[slots.query[slots.pair]]
        first = np.searchsorted(row, np.arange(len(self._sees)))
        column = np.arange(len(row)) - first[row]
        width = int(column.max()) + 1
        used = self._sees.shape[1]
        begin = column[np.minimum(slots.begin, len(column) - 1)]
        self._column[query, node] = used + begin
        parent = forest.get(forest.parent, query, node)
        last = self._column[query, parent] + forest.get(forest.feed, query, parent) - 1
        previous = np.where(slots.place > 0, used + column - 1, last[slots.pair])
        previous = np.where((slots.place == 0) & (parent[slots.pair] == 0), -1, previous)

        tokens = np.zeros((len(self._sees), width), np.int64)
        positions = np.zeros_like(tokens)
        above = np.full_like(tokens, -1)
        tokens[row, column] = slots.token
        positions[row, column] = self._lengths[slots.query[slots.pair]] + slots.depth
        above[row, column] = previous
        self._see(above)

        pair = np.searchsorted(query * forest.width + node, asked * forest.width + asked_node)
        at_row = self._row[asked[targets.pair]]
        at_column = begin[pair[targets.pair]] + targets.place
        return self._log_probabilities(tokens, positions, at_row, at_column, targets.token)

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

    def _log_probabilities(
        self, tokens: Ints, positions: Ints, row: Ints, column: Ints, token: Ints
    ) -> Floats:
        import torch

        width = tokens.shape[1]
        sees = self._sees[:, -width:]
        begin = self._cache.length
        self._cache.reserve(begin + width)
        device = self._model.device
        values = np.zeros(len(token))
        vocabulary = self._model.config.get_text_config().vocab_size
        # Logits of all slots exist at once; a gibibyte of them is enough.
        step = max(1, min((1 << 28) // (vocabulary * width), 16384 // width))
        for low in range(0, len(tokens), step):
            part = slice(low, min(low + step, len(tokens)))
            self._cache.rows, self._cache.length = part, begin
            pads = torch.tensor(self._pads[part], device=device)[:, None]
            prompt = torch.arange(self._first - self._prefix, device=device)[None] >= pads
            prompt = torch.cat([prompt.new_ones(len(pads), self._prefix), prompt], 1)
            mask = torch.cat(
                [
                    prompt[:, None].expand(-1, width, -1),
                    torch.from_numpy(sees[part]).to(device),
                ],
                dim=2,
            )
            logits = self._forward(tokens[part], positions[part], mask, {})
            here = (row >= low) & (row < part.stop)
            values[here] = log_probabilities(logits, row[here] - low, column[here], token[here])
        return values

    def _drop_rows(self, active: Ints) -> None:
        """Move the rows still at work to the front once they are few."""
        import torch

        if len(active) > 0.7 * len(self._sees):
            return
        rows = self._row[active]
        self._cache.keep(torch.from_numpy(rows).to(self._model.device), self._prefix)
        self._row = np.full(len(self._row), -1)
        self._row[active] = np.arange(len(active))
        self._sees = self._sees[rows]
        self._pads = self._pads[rows]

    def _forward(self, tokens: Ints, positions: Ints, sees: Any, keep: dict[str, int]) -> Any:
        import torch

        model, cache = self._model, self._cache
        width = tokens.shape[1]
        if sees is None:
            sees = torch.ones(width, width, dtype=torch.bool, device=model.device).tril()[None]
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
        cache.length += width
        return logits
