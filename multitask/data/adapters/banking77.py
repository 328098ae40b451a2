"""banking77: 13,083 customer queries of one bank, 77 intents (Casanueva et al., 2020).

The authors' repository on the Hub is still a loading script, which datasets 4 refuses; the copy
named here holds the same rows as Parquet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from multitask.data.adapters.base import Adapter, HubDataset, TaskData, text_field
from multitask.data.records import read_records
from multitask.errors import InputError, did_you_mean
from multitask.tasks import Example

LABELS_FILE = Path(__file__).with_name("banking77_labels.txt")


def _read(files: Mapping[str, Path]) -> TaskData:
    labels = _labels(files.get("categories"))
    splits = {split: _read_split(files[split], split, labels) for split in ("train", "test")}
    return TaskData(labels=labels, splits=splits)


def _labels(categories: Path | None) -> tuple[str, ...]:
    """The label space in the order of the Hub's label ids (sorted ignoring case)."""
    if categories is None:
        names = LABELS_FILE.read_text(encoding="utf-8").split()
    else:
        try:
            names = json.loads(categories.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"not a JSON list of intents ({error})", where=categories) from None
    return tuple(sorted(names, key=str.lower))


def _read_split(path: Path, split: str, labels: tuple[str, ...]) -> list[Example]:
    known = set(labels)
    examples = []
    for row, record in read_records(path):
        column = "category" if "category" in record else "label"
        text = text_field(record, "text", path=path, row=row)
        label = text_field(record, column, path=path, row=row)
        if label not in known:
            raise InputError(
                f"unknown intent {label!r}",
                where=f"{path}: row {row}",
                fix=f"{did_you_mean(label, labels)} The file may be torn.",
            )
        examples.append(Example(id=f"{split}-{row}", text=text, label=label))
    return examples


ADAPTER = Adapter(
    name="banking77",
    hub=HubDataset("legacy-datasets/banking77", "f54121560de48f2852f90be299010d1d6dc612ec"),
    files={"train": "train.csv", "test": "test.csv"},
    optional_files={"categories": "categories.json"},
    read=_read,
)
