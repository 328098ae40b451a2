"""Reading data files row by row: CSV, JSON lines, Parquet.

Every reader yields ``(row, record)``, where ``row`` is what a person finds the record by: the
line of a JSON-lines file, the number of the row below the header in the others.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multitask.errors import InputError

Record = dict[str, Any]

# A quote that is never closed swallows the rest of a file into one cell; real cells are smaller.
csv.field_size_limit(2**24)


def read_records(path: Path) -> list[tuple[int, Record]]:
    """Read a whole file by its suffix (``.csv``, ``.jsonl``, ``.parquet``).

    Raises:
        InputError: The file is missing, empty, torn, not UTF-8, or of another format.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(path.suffix)
    if reader is None:
        raise InputError(
            f"cannot read {path.suffix or 'a file without suffix'}",
            where=path,
            fix=f"use one of: {', '.join(readers)}",
        )
    if not path.is_file():
        raise InputError("no such data file", where=path)
    if path.stat().st_size == 0:
        raise InputError("the data file is empty", where=path, fix="fetch or export it again")
    try:
        records = list(reader(path))
    except UnicodeDecodeError as error:
        raise InputError(
            f"not UTF-8 at byte {error.start}", where=path, fix="convert the file to UTF-8"
        ) from None
    if not records:
        raise InputError("the data file has no rows", where=path, fix="fetch or export it again")
    return records


def _read_csv(path: Path) -> Iterator[tuple[int, Record]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        row = 0
        try:
            header = next(reader, [])
            for row, cells in enumerate(reader, start=1):
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"the row has {len(cells)} columns, the header {len(header)}",
                        where=f"{path}: row {row}",
                        fix="the file may be torn, or a text with commas needs quotes",
                    )
                yield row, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise InputError(
                f"not valid CSV ({error})",
                where=f"{path}: row {row + 1}",
                fix="the file may be torn; fetch or export it again",
            ) from None


def _read_jsonl(path: Path) -> Iterator[tuple[int, Record]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"not valid JSON ({error.msg})",
                    where=f"{path}: line {line}",
                    fix="the file may be torn; fetch or export it again",
                ) from None
            if not isinstance(record, dict):
                raise InputError("each line must be a JSON object", where=f"{path}: line {line}")
            yield line, record


def _read_parquet(path: Path) -> Iterator[tuple[int, Record]]:
    """Read Parquet; integer columns that are ``ClassLabel`` by their metadata become names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"not valid Parquet ({error})",
            where=path,
            fix="the file may be torn; fetch or export it again",
        ) from None
    names = _class_names(table.schema)
    for row, record in enumerate(table.to_pylist(), start=1):
        for column, labels in names.items():
            if record[column] is not None:
                record[column] = labels[record[column]]
        yield row, record


def _class_names(schema: Any) -> dict[str, list[str]]:
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import ClassLabel, Features

    features = Features.from_arrow_schema(schema)
    return {name: f.names for name, f in features.items() if isinstance(f, ClassLabel)}
