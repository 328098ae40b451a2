"""banking77: 13,083 customer queries of one bank, 77 intents (Casanueva et al., 2020).

The authors' repository on the Hub is still a loading script, which datasets 4 refuses; the copy
named first holds the same rows as Parquet. ``mteb/banking77`` has other rows and is no substitute.
"""

from __future__ import annotations

import json
from pathlib import Path

from multitask.data.adapters.base import Adapter, Files, HubDataset, TaskData
from multitask.data.readers import Rejects, columns_of, select
from multitask.errors import InputError
from multitask.tasks import Example

LABELS_FILE = Path(__file__).with_name("banking77_labels.txt")
_ROWS = {"train": 10_003, "test": 3_080}


def _read(files: Files, rejects: Rejects) -> TaskData:
    labels = _labels(files.get("categories"))
    splits = {split: _split(files[split], split, labels, rejects) for split in ("train", "test")}
    return TaskData(labels=labels, splits=splits)


def _labels(categories: tuple[Path, ...] | None) -> tuple[str, ...]:
    """The label space in the order of the Hub's label ids (sorted ignoring case)."""
    if categories is None:
        names = LABELS_FILE.read_text(encoding="utf-8").split()
    else:
        try:
            names = json.loads(categories[0].read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"not a JSON list of intents ({error})", where=categories[0]) from None
    return tuple(sorted(names, key=str.lower))


def _split(
    paths: tuple[Path, ...], split: str, labels: tuple[str, ...], rejects: Rejects
) -> list[Example]:
    known = set(labels)
    examples = []
    for number, path in enumerate(paths):
        prefix = f"{split}-{number}-" if number else f"{split}-"
        label_column = "category" if "category" in columns_of(path) else "label"
        for row, (text, label) in select(path, ["text", label_column], rejects):
            if not isinstance(text, str) or not text.strip():
                rejects.add(path, row, "no text")
            elif label not in known:
                rejects.add(path, row, "unknown intent", detail=repr(label))
            else:
                examples.append(Example(id=f"{prefix}{row}", text=text, label=label))
    return examples


ADAPTER = Adapter(
    name="banking77",
    hub=(
        HubDataset(
            "legacy-datasets/banking77", "f54121560de48f2852f90be299010d1d6dc612ec", rows=_ROWS
        ),
        HubDataset("PolyAI/banking77", "refs/convert/parquet", rows=_ROWS),
    ),
    files={"train": "train.csv", "test": "test.csv"},
    optional_files={"categories": "categories.json"},
    read=_read,
)
