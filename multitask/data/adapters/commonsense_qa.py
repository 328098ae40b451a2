"""CommonsenseQA: 12,102 questions with five options (Talmor et al., 2019).

Its test split has no answers. As everyone does, the labelled validation split is the test here,
and validation rows are taken from train.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from multitask.data.adapters.base import Adapter, HubDataset, TaskData, text_field
from multitask.data.records import Record, read_records
from multitask.errors import InputError
from multitask.tasks import Example

LETTERS = ("A", "B", "C", "D", "E")


def _read(files: Mapping[str, Path]) -> TaskData:
    return TaskData(
        labels=LETTERS,
        splits={"train": _read_split(files["train"]), "test": _read_split(files["validation"])},
    )


def _read_split(path: Path) -> list[Example]:
    return [_example(record, path, row) for row, record in read_records(path)]


def _example(record: Record, path: Path, row: int) -> Example:
    where = f"{path}: row {row}"
    choices = record.get("choices")
    if not isinstance(choices, dict) or not {"label", "text"} <= choices.keys():
        raise InputError("'choices' needs the lists 'label' and 'text'", where=where)
    texts = tuple(str(text) for text in choices["text"])
    if tuple(choices["label"]) != LETTERS or len(texts) != len(LETTERS):
        raise InputError(f"expected the options {', '.join(LETTERS)}", where=where)
    answer = text_field(record, "answerKey", path=path, row=row)
    if answer not in LETTERS:
        raise InputError(f"the answer {answer!r} is no option", where=where)
    return Example(
        id=text_field(record, "id", path=path, row=row),
        text=text_field(record, "question", path=path, row=row),
        label=answer,
        choices=texts,
    )


ADAPTER = Adapter(
    name="commonsense_qa",
    hub=HubDataset("tau/commonsense_qa", "94630fe30dad47192a8546eb75f094926d47e155"),
    files={"train": "train.jsonl", "validation": "validation.jsonl"},
    read=_read,
)
