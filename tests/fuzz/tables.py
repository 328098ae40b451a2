"""Broken data files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.specs import encoded, torn
from tests.fuzz.values import weird

_SUFFIXES = [".csv", ".csv", ".jsonl", ".jsonl", ".parquet", ".tsv", ".txt", ""]


def make_table(random: Random, folder: Path) -> list[str]:
    """A data file that is probably wrong, and a task that reads it."""
    kind = random.choice(["classification", "classification", "multiple_choice", "generation"])
    suffix = random.choice(_SUFFIXES)
    rows = [row_of(kind, i, random) for i in range(random.choice([0, 1, 2, 12, 12, 12, 30]))]
    if random.random() < 0.5 and rows:
        for _ in range(random.choice([1, 1, 3])):
            row = random.choice(rows)
            row[random.choice(list(row))] = weird(random)
    data = written(rows, suffix, random)
    if random.random() < 0.4:
        data = torn(data or b"x", random)
    (folder / f"data{suffix}").write_bytes(data)
    task: dict[str, Any] = {"name": "mine", "kind": kind, "source": {"path": f"data{suffix}"}}
    if random.random() < 0.3:
        task["max_bad_rows"] = 100
    if random.random() < 0.2:
        task["columns"] = {"text": random.choice(["text", "nothing", "id"]), "label": "label"}
    spec = {"model": "owner/model", "cluster": "cpu", "method": "full", "tasks": [task]}
    spec["leakage"] = {"near_duplicates": random.random() < 0.2}
    (folder / "spec.yaml").write_bytes(encoded(spec))
    return ["prepare", "spec.yaml", "--out", "run"]


def row_of(kind: str, number: int, random: Random) -> dict[str, Any]:
    if kind == "classification":
        return {
            "id": number,
            "text": f"text number {number} of these",
            "label": random.choice("abc"),
        }
    if kind == "generation":
        return {"prompt": f"say {number}", "response": f"it is {number}"}
    choices = [f"option {i} of {number}" for i in range(4)]
    return {"question": f"which of {number}?", "choices": choices, "answer": random.choice("ABCD")}


def written(rows: list[dict[str, Any]], suffix: str, random: Random) -> bytes:
    if suffix == ".jsonl":
        lines = [json.dumps(row, default=str) for row in rows]
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    if suffix == ".parquet":
        return parquet(rows)
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t" if suffix == ".tsv" else random.choice(",,,;|"))
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow(list(row.values())[: random.choice([9, 9, 9, 9, 9, 9, 9, 9, 9, 1])])
    return out.getvalue().encode("utf-8", "surrogatepass")


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError, ValueError):
        table = pa.Table.from_pylist(
            [{key: ascii(value) for key, value in row.items()} for row in rows]
        )
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table, sink)
    except (pa.ArrowException, NotImplementedError):
        return b"PAR1 nothing PAR1"
    data: bytes = sink.getvalue().to_pybytes()
    return data
