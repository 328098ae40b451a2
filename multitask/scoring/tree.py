"""Label trees after a shared cache of their prompts, all nodes of a query in one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from multitask.scoring.batches import even_blocks
from multitask.scoring.encode import Tokens
from multitask.scoring.feed import lay_out, with_ancestors
from multitask.scoring.forward import accepts, log_probabilities
from multitask.scoring.search import Targets
from multitask.scoring.trie import Floats, Forest, Ints

# What a forward costs beside its tokens, in tokens: on a GPU small ones cost as much as large.
_FORWARD_COST = {True: 64, False: 512}
# A CPU is fastest while what passes between layers stays in its cache.
_FORWARD_TOKENS = {True: 2048, False: 16384}


class TreeReader:
    """Reads prompts and trie nodes with a causal model whose positions are explicit.

    One reader serves all batches of prompts that begin with the same prefix: the prefix is
    computed once and its keys and values stay in place.
    """

    def __init__(self, model: Any, prefix: Tokens, *, budget: int, tallest: int) -> None:
        """Compute the prefix.

        Args:
            model: The model.
            prefix: What all prompts begin with; shorter than every one of them.
            budget: Tokens of prompts held at once; of trie nodes it may be four times as many.
            tallest: Tokens of the longest label.
        """
        from multitask.scoring.slab import SlabCache

        self._model = model
        self._prefix = len(prefix)
        self._budget = budget
        self._tallest = tallest
        self._cache = SlabCache(1, max(1, len(prefix)))
        self._last = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
        if prefix:
            self._forward(np.array([prefix]), np.arange(len(prefix))[None], None, self._last)

    def start(self, prompts: Sequence[Tokens], forest: Forest) -> Any:
        """Read a batch of prompts, longest first; logits after each, (prompts, vocabulary)."""
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
        self._most = max(2 * self._tallest + 16, min(1024, 4 * self._budget // len(tails)))
        self._cache.begin(len(tails), head + width + min(self._most, 32), head)
        self._forest = forest
        self._pads = pads
        self._lengths = lengths + head
        self._first = head + width
        self._row = np.arange(len(tails))
        self._column = np.full((len(tails), forest.width), -1)
        self._sees = np.zeros((len(tails), 0, 0), bool)
        device = self._model.device
        column = torch.arange(width, device=device)
        causal = (column[None, :] <= column[:, None])[None]
        cpu = device.type == "cpu"
        logits, low = [], 0
        # Rows end in the same column, so that shorter ones can be read in narrower forwards.
        for count, narrow in even_blocks(lengths, _FORWARD_COST[cpu]):
            end, step = low + count, max(1, _FORWARD_TOKENS[cpu] // narrow)
            while low < end:
                part, last = slice(low, min(low + step, end)), slice(width - narrow, width)
                self._cache.rows, self._cache.length = part, head + width - narrow
                pad = torch.tensor(pads[part], device=device)[:, None, None]
                seen = causal[:, last] & (column >= pad)
                seen = torch.cat([seen.new_ones(()).expand(len(seen), narrow, head), seen], dim=2)
                found = self._forward(tokens[part, last], positions[part, last], seen, self._last)
                logits.append(found[:, -1])
                low = part.stop
        return torch.cat(logits)

    @property
    def room(self) -> int:
        """Tokens that a query can be asked to read at once."""
        return self._most - self._tallest

    def extend(self, query: Ints, node: Ints, targets: Targets) -> Floats:
        """Log-probability of each target after reading the nodes; see `Search.targets`."""
        forest = self._forest
        reading = with_ancestors(forest, query, node, self._column)
        widest = int(np.bincount(reading[0], forest.get(forest.feed, *reading)).max())
        if self._sees.shape[1] + widest > self._most:
            # Forget what was read of the trees; the ancestors needed are read again.
            self._column.fill(-1)
            self._cache.length = self._first
            self._sees = self._sees[:, :0, :0]
            reading = with_ancestors(forest, query, node, self._column)
        self._arrange(reading[0], forest.get(forest.feed, *reading))
        return self._read(*reading, query, node, targets)

    def _read(
        self, query: Ints, node: Ints, asked: Ints, asked_node: Ints, targets: Targets
    ) -> Floats:
        forest = self._forest
        slots = lay_out(forest, query, node)
        owner = slots.query[slots.pair]
        row = self._row[owner]
        column = np.arange(len(row)) - np.searchsorted(owner, owner)
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
        positions[row, column] = self._lengths[owner] + slots.depth
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
        begin = self._cache.length
        self._cache.reserve(begin + tokens.shape[1])
        values = np.zeros(len(token))
        vocabulary = self._model.config.get_text_config().vocab_size
        tokens_at_once = _FORWARD_TOKENS[self._model.device.type == "cpu"]
        low = 0
        for count, width in self._blocks:
            # Logits of all slots exist at once; a gibibyte of them is enough.
            step = max(1, min((1 << 28) // (vocabulary * width), tokens_at_once // width))
            end = low + count
            while low < end:
                part = slice(low, min(low + step, end))
                self._cache.rows, self._cache.length = part, begin
                mask = self._mask(part, width)
                logits = self._forward(tokens[part, :width], positions[part, :width], mask, {})
                here = (row >= low) & (row < part.stop)
                values[here] = log_probabilities(logits, row[here] - low, column[here], token[here])
                low = part.stop
        self._cache.length = begin + tokens.shape[1]
        return values

    def _mask(self, part: slice, width: int) -> Any:
        """What the newest tokens of some rows see: (rows, width, columns)."""
        import torch

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
        import torch

        active, which = np.unique(query, return_inverse=True)
        widths = np.bincount(which.reshape(-1), tokens).astype(np.int64)
        order = np.argsort(-widths, kind="stable")
        blocks = even_blocks(widths[order], _FORWARD_COST[self._model.device.type == "cpu"])
        rows = self._row[active[order]]
        if len(blocks) == 1 and len(active) > 0.7 * len(self._sees):
            self._blocks = [(len(self._sees), int(widths.max()))]
            return
        self._blocks = blocks
        self._cache.keep(torch.from_numpy(rows).to(self._model.device), self._prefix)
        self._row = np.full(len(self._row), -1)
        self._row[active[order]] = np.arange(len(active))
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
