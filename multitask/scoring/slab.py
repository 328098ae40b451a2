"""A key-value cache that is allocated once and written in place.

transformers' own cache copies all of its content at every forward. Here a prefix that all prompts
share is written once and stays, whatever batch follows. Import this module late: it needs torch
and transformers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class SlabLayer(CacheLayerMixin):
    """Keys and values of one layer: (rows, heads, columns, width)."""

    is_sliding = False

    def __init__(self, slab: SlabCache) -> None:
        super().__init__()
        self._slab = slab

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Allocate; zeros, since what a mask hides must still be finite."""
        rows, columns = self._slab.capacity
        self.keys = _zeros(key_states, rows, columns)
        self.values = _zeros(value_states, rows, columns)
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
        """Length and offset for masks."""
        return self._slab.length + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self._slab.length

    def get_max_length(self) -> int:
        """No bound of its own."""
        return -1

    def move(self, rows: Any, begin: int, end: int) -> None:
        """Move rows to the front, columns from ``begin`` to ``end`` alone."""
        rows = rows.to(self.keys.device)  # layers may be on different devices
        for held in (self.keys, self.values):
            held[: len(rows), :, begin:end] = held[rows, :, begin:end]

    def reshape(self, columns: int) -> None:
        """Take the slab's capacity, all rows with the first columns of row 0."""
        rows, width = self._slab.capacity
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = _zeros(old, rows, width)
            new[:, :, :columns] = old[:1, :, :columns]
            setattr(self, name, new)

    def grow(self, used: int) -> None:
        """Take the slab's capacity, keeping the columns in use."""
        rows, columns = self._slab.capacity
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = _zeros(old, rows, columns)
            new[:, :, :used] = old[:, :, :used]
            setattr(self, name, new)


def _zeros(like: Any, rows: int, columns: int) -> Any:
    shape = (rows, like.shape[1], columns, like.shape[3])
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


class SlabCache(Cache):
    """Cache of all layers.

    Attributes:
        capacity: Rows and columns allocated.
        rows: Rows that the next forward works on.
        length: Columns in use.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(layer_class_to_replicate=partial(SlabLayer, self))
        self.capacity = (rows, columns)
        self.rows = slice(0, rows)
        self.length = 0

    def reserve(self, columns: int) -> None:
        """Make room for so many columns."""
        if columns > self.capacity[1]:
            self.capacity = (self.capacity[0], columns)
            for layer in self.layers:
                layer.grow(self.length)

    def begin(self, rows: int, columns: int, shared: int) -> None:
        """Begin a batch whose rows share what row 0 has in its first columns."""
        held, width = self.capacity
        if rows > held or columns > width:
            self.capacity = (rows, columns)
            for layer in self.layers:
                layer.reshape(shared)
        self.rows, self.length = slice(0, rows), shared

    def keep(self, rows: Any, begin: int) -> None:
        """Keep these rows alone, at the front; columns before ``begin`` are alike in all."""
        for layer in self.layers:
            layer.move(rows, begin, self.length)
