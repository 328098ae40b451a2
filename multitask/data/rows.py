"""Rows of a task in columns: the one form they have from the reader to the writer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from multitask.tasks.example import Example

_NAMES = ("id", "text", "label", "choices", "context")
# Rows are worked on a block at a time, of at most so many rows and about so many bytes.
_BLOCK = 65_536
_BYTES = 2**25


class Rows(Sequence[Example]):
    """Rows in Arrow columns; each is an :class:`Example` where it is looked at.

    Attributes:
        batch: The columns, named as the fields of an example; labels by their place in a list.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        """Take columns as :meth:`of_columns` makes them."""
        self.batch = batch

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Rows:
        """Put examples into columns; rows that are in columns stay as they are."""
        if isinstance(examples, Rows):
            return examples
        columns = list(zip(*examples, strict=True)) or [()] * len(_NAMES)
        ids, texts, labels, choices, contexts = columns
        return cls.of_columns(ids, texts, labels, choices, contexts)

    @classmethod
    def of_columns(
        cls, ids: Any, texts: Any, labels: Any, choices: Any = None, contexts: Any = None
    ) -> Rows:
        """Put columns together: ids, texts and labels, as Arrow arrays or sequences, and others.

        Args:
            ids: Ids.
            texts: Texts.
            labels: Labels.
            choices: Options of each row; None: no row has any.
            contexts: Inputs of instructions; None: no row has any.
        """
        options = pa.nulls(len(ids))
        if choices is not None and any(choices):
            ends = np.cumsum([0, *map(len, choices)])
            texts_of_options = text_column([option for several in choices for option in several])
            options = pa.LargeListArray.from_arrays(arrow(ends), texts_of_options)
        given = contexts is not None and any(contexts)
        columns = [
            ids if isinstance(ids, pa.Array) else text_column(ids),
            texts if isinstance(texts, pa.Array) else text_column(texts),
            (labels if isinstance(labels, pa.Array) else text_column(labels)).dictionary_encode(),
            options,
            text_column(contexts) if given else pa.nulls(len(ids)),
        ]
        return cls(pa.RecordBatch.from_arrays(columns, _NAMES))

    @classmethod
    def concat(cls, several: Sequence[Rows]) -> Rows:
        """Rows one after the other."""
        if len(several) == 1:
            return several[0]
        if not several:
            return cls.of(())
        tables = [pa.Table.from_batches([rows.batch]) for rows in several]
        table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
        columns = [column.combine_chunks() for column in table.columns]
        return cls(pa.RecordBatch.from_arrays(columns, _NAMES))

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> Rows: ...

    def __getitem__(self, place: int | slice) -> Example | Rows:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step == 1:
                return Rows(self.batch.slice(start, max(0, stop - start)))
            return self.take(np.arange(start, stop, step))
        if place < 0:
            place += len(self)
        row, text, label, choices, context = (column[place].as_py() for column in self.batch)
        return Example(row, text, label, tuple(choices or ()), context or "")

    def __iter__(self) -> Iterator[Example]:
        step = self.step
        for start in range(0, len(self), step):
            columns = [c.to_pylist() for c in self.batch.slice(start, step)]
            columns[3] = [tuple(choices or ()) for choices in columns[3]]
            columns[4] = [context or "" for context in columns[4]]
            yield from map(Example._make, zip(*columns, strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Rows({len(self)})"

    @property
    def step(self) -> int:
        """How many rows make a block that needs little memory."""
        return max(1, min(_BLOCK, _BYTES * len(self) // (int(self.batch.nbytes) + 1)))

    def column(self, name: str) -> Any:
        """A column, as an Arrow array."""
        return self.batch.column(name)

    @property
    def labels(self) -> list[str]:
        """The labels of all rows."""
        names: list[str] = np.array([*self.label_names, ""], dtype=object)[self.codes].tolist()
        return names

    @property
    def label_names(self) -> list[str]:
        """What labels there may be, once each."""
        names: list[str] = self.batch.column(2).dictionary.to_pylist()
        return names

    @property
    def label_counts(self) -> dict[str, int]:
        """How many rows each label has, by its name."""
        counts = np.bincount(self.codes, minlength=len(self.label_names)).tolist()
        found = zip(self.label_names, counts, strict=True)
        return dict(sorted((name, count) for name, count in found if count))

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """For each row, the place of its label in :attr:`label_names`."""
        codes: npt.NDArray[np.int32] = self.batch.column(2).indices.to_numpy()
        return codes

    @property
    def ranks(self) -> npt.NDArray[np.int64]:
        """For each row, the place of its label among all that there are, in alphabetical order."""
        names = self.label_names
        rank = np.empty(len(names), dtype=np.int64)
        rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        return rank[self.codes]

    @property
    def text_alone(self) -> bool:
        """Whether no row has options or an input."""
        empty = (pa.types.is_null(self.column(name).type) for name in ("choices", "context"))
        return all(empty)

    def take(self, places: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]) -> Rows:
        """The rows at some places, in their order, or where a mask is true."""
        chosen = arrow(places)
        return Rows(
            self.batch.filter(chosen) if places.dtype == np.bool_ else self.batch.take(chosen)
        )

    def put(self, places: Sequence[int], examples: Sequence[Example]) -> Rows:
        """The same rows with others at some places."""
        if not places:
            return self
        order = np.arange(len(self))
        order[list(places)] = np.arange(len(self), len(self) + len(places))
        return Rows.concat([self, Rows.of(examples)]).take(order)


def text_column(texts: Iterable[str]) -> pa.LargeStringArray:
    """Texts as an Arrow array; ``pyarrow.array`` would import pandas to look at them."""
    encoded = list(map(str.encode, texts))
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    data = pa.py_buffer(b"".join(encoded))
    return pa.LargeStringArray.from_buffers(len(encoded), pa.py_buffer(ends), data)


NOTHING = text_column([""])[0]
"""The empty text, as Arrow's functions take it."""


def arrow(numbers: npt.NDArray[Any]) -> Any:
    """A NumPy array as an Arrow array."""
    if numbers.dtype == np.bool_:
        bits = pa.py_buffer(np.packbits(numbers, bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), len(numbers), [None, bits])
    kind = pa.from_numpy_dtype(numbers.dtype)
    data = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(kind, len(numbers), [None, data])


def content_of(texts: pa.LargeStringArray) -> npt.NDArray[np.uint8]:
    """The bytes of a column of texts, one text after the other."""
    ends = _offsets(texts)
    return np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)[ends[0] : ends[-1]]


def _offsets(texts: pa.LargeStringArray) -> npt.NDArray[np.int64]:
    if not len(texts):
        return np.zeros(1, dtype=np.int64)
    return np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset :][: len(texts) + 1]


def spaced(texts: pa.LargeStringArray) -> npt.NDArray[np.int64]:
    """Places of texts in a column that are empty or have white space around them."""
    data, offsets = content_of(texts), _offsets(texts)
    offsets = offsets - offsets[0]
    if not len(data):
        return np.arange(len(texts))
    # Where a text begins and ends with a visible ASCII character, Python need not look at it.
    visible = np.zeros(256, dtype=bool)
    visible[33:127] = True
    last = len(data) - 1
    ends = visible[data[np.minimum(offsets[:-1], last)]] & visible[data[offsets[1:] - 1]]
    doubtful = np.flatnonzero(~ends | (offsets[:-1] == offsets[1:]))
    found = [not text or text.strip() != text for text in texts.take(arrow(doubtful)).to_pylist()]
    chosen: npt.NDArray[np.int64] = doubtful[np.array(found, dtype=bool)]
    return chosen
