"""Reading data files row by row: CSV, JSON lines, Parquet.

A row has the number a person finds it by: the line of a JSON-lines file, the number of the row
below the header in the others. What is wrong with one row goes to :class:`Rejects`; what is wrong
with a whole file raises.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from multitask.data.rows import text_column
from multitask.errors import InputError, did_you_mean
from multitask.files import read_parquet

Record = dict[str, Any]

# A quote that is never closed swallows the rest of a file into one cell, so cells are bounded.
MAX_CELL = 1_000_000
csv.field_size_limit(2**24)

# Rows are read in blocks: of files that Python reads row by row, and of others.
_BLOCK = 4096
_BATCH = 65_536
_CSV_BYTES = 2**23

_DELIMITERS = (",", ";", "\t", "|")
# A name in quotes may have line breaks; one that is never closed is not looked for for long.
_HEADER_LINES = 20
_MISSING = object()


def columns_of(path: Path) -> list[str]:
    """Names of a file's columns; of a JSON-lines file, the keys of its first object.

    Raises:
        InputError: The file is missing, empty, without rows, or of another format.
    """
    _require_content(path)
    kind = _kind(path)
    if kind == "csv":
        return _csv_header(path)[0]
    if kind == "jsonl":
        for _, record in _json_records(path, Rejects(limit=None)):
            return list(record)
        raise _no_rows(path)
    return list(_parquet(path).column_names)


@dataclass(frozen=True)
class Block:
    """Some rows of a file; iterating gives their numbers and values one by one.

    Attributes:
        rows: Their numbers.
        columns: For each column that was asked for, its values in these rows: an Arrow array of
            texts in blocks without any other value, else a list.
    """

    rows: Sequence[int]
    columns: Sequence[Any]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, Sequence[Any]]], columns: int) -> Block:
        """A block of numbered rows."""
        if not rows:
            return cls((), ((),) * columns)
        numbers, values = zip(*rows, strict=True)
        return cls(numbers, tuple(zip(*values, strict=True)))

    def __iter__(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        return zip(self.rows, zip(*map(_listed, self.columns), strict=True), strict=True)


def select(
    path: Path, columns: Sequence[str], rejects: Rejects
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield the number and some columns' values of every row that can be read.

    Takes and raises what :func:`select_blocks` does.
    """
    for block in select_blocks(path, columns, rejects):
        yield from block


def select_blocks(path: Path, columns: Sequence[str], rejects: Rejects) -> Iterator[Block]:
    """Yield some columns of all rows that can be read, in blocks of some thousand rows.

    Args:
        path: The file.
        columns: What to read, in this order.
        rejects: Told of rows that are torn, not UTF-8, too large, or lack a column.

    Raises:
        InputError: The file is missing, empty, without rows, of another format, lacks a column,
            or is torn so that rows would be lost unseen.
    """
    known = columns_of(path)
    for column in columns:
        if column not in known:
            raise InputError(f"no column {column!r}", where=path, fix=did_you_mean(column, known))
        if known.count(column) > 1:
            raise InputError(
                f"{known.count(column)} columns are called {column!r}",
                where=path,
                fix="rename all but the one you mean",
            )
    readers = {"csv": _csv_blocks, "jsonl": _jsonl_blocks, "parquet": _parquet_blocks}
    empty = True
    for block in readers[_kind(path)](path, columns, rejects):
        if not block.rows:
            continue
        empty = False
        rejects.look_at(len(block.rows))
        texts = [_texts(column) for column in block.columns]
        plain = all(column is not None for column in texts)
        yield Block(block.rows, texts) if plain else _usable(block, path, rejects)
    if empty and not rejects.count:
        raise _no_rows(path)


def _listed(values: Any) -> Sequence[Any]:
    return values.to_pylist() if isinstance(values, pa.Array) else values  # type: ignore[no-any-return]


def _texts(values: Any) -> Any:
    """A column as an Arrow array; None unless all cells are texts of ordinary length in UTF-8."""
    try:
        if not isinstance(values, pa.Array):
            values = text_column(values)
        elif not pa.types.is_large_string(values.type):
            kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
            values = values.cast(pa.large_string()) if pa.types.is_string(kind) else None
    except (pa.ArrowException, AttributeError, TypeError, UnicodeEncodeError):
        return None
    if values is None or values.null_count or _longest(values) > MAX_CELL:
        return None
    return values


def _longest(values: Any) -> int:
    """The most bytes of a cell of a column of texts."""
    return pc.max(pc.binary_length(values)).as_py() or 0


def _usable(block: Block, path: Path, rejects: Rejects) -> Block:
    """The rows of a block without a fault in a cell."""
    kept = []
    for row, values in block:
        fault = _fault(values)
        if fault:
            rejects.add(path, row, fault)
        else:
            kept.append((row, values))
    return Block.of(kept, len(block.columns))


def _fault(values: tuple[Any, ...]) -> str | None:
    """What is wrong with the cells of a row, whatever they mean."""
    for value in values:
        if not isinstance(value, str):
            continue
        if len(value) > MAX_CELL:
            return f"a cell has more than {MAX_CELL:,} characters"
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return "not UTF-8"
    return None


def _require_content(path: Path) -> None:
    if not path.is_file():
        raise InputError("no such data file", where=path)
    if path.stat().st_size == 0:
        raise InputError("the data file is empty", where=path, fix="fetch or export it again")
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError("the file is UTF-16", where=path, fix="convert it to UTF-8")


def _kind(path: Path) -> str:
    kinds = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
    kinds[".parquet"] = "parquet"
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"cannot read {path.suffix or 'a file without suffix'}",
            where=path,
            fix=f"use one of: {', '.join(kinds)}",
        )
    return kind


def _no_rows(path: Path) -> InputError:
    return InputError("the data file has no rows", where=path, fix="fetch or export it again")


def _csv_header(path: Path) -> tuple[list[str], str]:
    """Column names and the delimiter: the one that divides the header into most columns."""
    header: list[str] = []
    best = ","
    for delimiter in _DELIMITERS:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = (file.readline(2**20) for _ in range(_HEADER_LINES))
            try:
                names = next(csv.reader(lines, delimiter=delimiter), [])
            except csv.Error:
                continue
        if len(names) > len(header):
            header, best = names, delimiter
    return [name.strip() for name in header], best


def _csv_blocks(path: Path, columns: Sequence[str], rejects: Rejects) -> Iterator[Block]:
    header, delimiter = _csv_header(path)
    if delimiter != ",":
        rejects.notes.append(f"{path.name}: read with the delimiter {delimiter!r}")
    places = [header.index(column) for column in columns]
    table = _csv_table(path, places, len(header), delimiter)
    if table is None:
        yield from _csv_rows(path, places, len(header), delimiter, rejects)
        return
    done = 0
    for batch in table.to_batches(max_chunksize=_BATCH):
        yield Block(range(done + 1, done + batch.num_rows + 1), batch.columns)
        done += batch.num_rows


def _csv_table(path: Path, places: Sequence[int], width: int, delimiter: str) -> Any | None:
    """The columns of a CSV file by Arrow's reader; None where Python's might read it otherwise.

    Arrow's gives empty lines cells and is lenient about quotes. What is doubtful is left to
    Python's, which is strict, and to its caller, which names the row.
    """
    from pyarrow import csv as arrow

    data = np.memmap(path, dtype=np.uint8, mode="r")
    if width == 1 or not _strictly_quoted(data, delimiter):
        return None
    names = [f"f{place}" for place in places]
    try:
        table = arrow.read_csv(
            pa.py_buffer(data),
            arrow.ReadOptions(autogenerate_column_names=True, block_size=_CSV_BYTES),
            arrow.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False
            ),
            arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_columns != width:
        return None
    table = table.select(names).slice(1)
    lengths = pc.max_element_wise(*map(pc.binary_length, table.columns))
    limits = pc.min_max(lengths).as_py()
    return table if limits["min"] and limits["max"] <= MAX_CELL else None


def _strictly_quoted(data: npt.NDArray[np.uint8], delimiter: str) -> bool:
    """Whether quotes are nowhere but around cells, and doubled within them."""
    quotes = np.flatnonzero(data == ord('"'))
    around = np.zeros(256, dtype=bool)
    around[[ord(delimiter), ord("\n"), ord("\r"), ord('"')]] = True
    opening, closing = quotes[::2], quotes[1::2]
    opening = opening[opening > (3 if bytes(data[:3]) == codecs.BOM_UTF8 else 0)]
    closing = closing[closing < len(data) - 1]
    strict = around[data[opening - 1]].all() and around[data[closing + 1]].all()
    return len(quotes) % 2 == 0 and bool(strict)


def _csv_rows(
    path: Path, places: Sequence[int], width: int, delimiter: str, rejects: Rejects
) -> Iterator[Block]:
    """The columns of a CSV file by Python's reader; names the rows that are wrong."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        done = 0
        cells: list[list[str]] = []
        try:
            next(reader)
            while True:
                cells.clear()
                cells.extend(islice(reader, _BLOCK))  # keeps what came before an error
                if not cells:
                    return
                whole = []
                for row, values in enumerate(cells, start=done + 1):
                    if len(values) == width:
                        whole.append((row, [values[place] for place in places]))
                    elif values:
                        rejects.add(path, row, "wrong number of columns", detail=f"({len(values)})")
                done += len(cells)
                yield Block.of(whole, len(places))
        except csv.Error as error:
            raise InputError(
                f"not valid CSV ({error})",
                where=f"{path}: row {done + len(cells) + 1}",
                fix="a quote may be open, or the file torn; fetch or export it again",
            ) from None


def _json_records(path: Path, rejects: Rejects) -> Iterator[tuple[int, Record]]:
    import orjson

    with path.open("rb") as file:
        for line, text in enumerate(file, start=1):
            stripped = text.removeprefix(b"\xef\xbb\xbf").strip()
            if not stripped:
                continue
            try:
                record = orjson.loads(stripped)
            except orjson.JSONDecodeError:
                rejects.add(path, line, *_json_fault(stripped))
                continue
            if isinstance(record, dict):
                yield line, record
            else:
                rejects.add(path, line, "the line is no JSON object")


def _json_fault(text: bytes) -> tuple[str]:
    try:
        json.loads(text)
    except UnicodeDecodeError:
        return ("not UTF-8",)
    except ValueError:
        pass
    return ("not valid JSON",)


def _jsonl_blocks(path: Path, columns: Sequence[str], rejects: Rejects) -> Iterator[Block]:
    records = _json_records(path, rejects)
    while some := list(islice(records, _BLOCK)):
        whole = []
        for line, record in some:
            values = [record.get(column, _MISSING) for column in columns]
            if _MISSING in values:
                missing = columns[values.index(_MISSING)]
                rejects.add(path, line, f"no key {missing!r}")
            else:
                whole.append((line, values))
        yield Block.of(whole, len(columns))


def _parquet(path: Path) -> Any:
    return read_parquet(path)


def _parquet_blocks(path: Path, columns: Sequence[str], rejects: Rejects) -> Iterator[Block]:
    """Rows of a Parquet file; integers that are a ``ClassLabel`` by its metadata become names.

    As everywhere in ``datasets``, -1 is a row without a label (``datasets/features/features.py``,
    ``ClassLabel``); it becomes None.
    """
    table = _parquet(path).select(list(columns))
    classes = _class_names(table.schema)
    done = 0
    for batch in table.to_batches(max_chunksize=_BATCH):
        values = list(batch.columns)
        rows: Sequence[int] = range(done + 1, done + batch.num_rows + 1)
        done += batch.num_rows
        wrong: set[int] = set()
        for place, names in enumerate(map(classes.get, columns)):
            if names is None:
                continue
            known = dict(enumerate(names)) | {-1: None, None: None}
            codes = values[place].to_pylist()
            for row, code in zip(rows, codes, strict=True):
                if code not in known and row not in wrong:
                    wrong.add(row)
                    detail = f"({code}, and there are {len(names)})"
                    rejects.add(path, row, "the class is none of those", detail=detail)
            values[place] = [known.get(code) for code in codes]
        block = Block(rows, values)
        if wrong:
            block = Block.of([row for row in block if row[0] not in wrong], len(columns))
        yield block


def _class_names(schema: Any) -> dict[str, list[str]]:
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import ClassLabel, Features

    features = Features.from_arrow_schema(schema)
    return {name: f.names for name, f in features.items() if isinstance(f, ClassLabel)}


_KEPT = 1000


@dataclass
class Rejects:
    """The bad rows of one task.

    Attributes:
        limit: How many are tolerated; None for no limit.
        reasons: How many there are of each reason.
        listed: File, row and reason of each, up to the first thousand.
        notes: What was done to a file as a whole, such as reading it with another delimiter.
        looked_at: Rows looked at so far, good and bad.
        on_rows: Told ``looked_at`` while it grows.
    """

    limit: int | None = 0
    reasons: Counter[str] = field(default_factory=Counter)
    listed: list[dict[str, object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    looked_at: int = 0
    on_rows: Callable[[int], None] = field(default=lambda _rows: None, repr=False, compare=False)

    @property
    def count(self) -> int:
        """Bad rows in all."""
        return self.reasons.total()

    def look_at(self, rows: int) -> None:
        """Count rows that are being looked at."""
        self.looked_at += rows
        self.on_rows(self.looked_at)

    def add(self, path: Path, row: int, reason: str, *, detail: str = "") -> None:
        """Record a bad row.

        Args:
            path: Its file.
            row: Its number there.
            reason: Why; the same words for the same fault, since they are counted.
            detail: What is particular to this row.
        """
        self.reasons[reason] += 1
        if len(self.listed) < _KEPT:
            text = f"{reason} {detail}".strip()
            self.listed.append({"file": path.name, "row": row, "reason": text})

    def take(self, other: Rejects) -> None:
        """Add the bad rows and notes of another part of the same task."""
        self.reasons += other.reasons
        self.listed += other.listed[: _KEPT - len(self.listed)]
        self.notes += other.notes

    def check(self, path: Path, task: str) -> None:
        """Refuse the task when there are more bad rows than the limit.

        Raises:
            InputError: There are; the first few are named.
        """
        if self.limit is None or self.count <= self.limit:
            return
        shown = "\n".join(f"  {r['file']}: row {r['row']}: {r['reason']}" for r in self.listed[:5])
        more = f"\n  and {self.count - 5:,} more" if self.count > 5 else ""
        raise InputError(
            f"{self.count:,} bad rows in task {task!r}, {self.limit:,} allowed:\n{shown}{more}",
            where=path.parent,
            fix=f"correct them, or leave them out with `max_bad_rows: {self.count}`",
        )

    def record(self) -> dict[str, object]:
        """What the manifest keeps."""
        return {
            "count": self.count,
            "reasons": dict(sorted(self.reasons.items())),
            "rows": self.listed,
            "notes": self.notes,
        }


def iterate_rows(path: Path) -> Iterator[Record]:
    """Read back the rows of a split of a run, one by one."""
    import orjson

    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def read_rows(path: Path) -> list[Record]:
    """Read back the rows of a split of a run."""
    return list(iterate_rows(path))
