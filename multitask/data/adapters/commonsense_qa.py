"""CommonsenseQA: 12,102 questions with five options (Talmor et al., 2019).

Its test split has no answers. As everyone does, the labelled validation split is the test here,
and validation rows are taken from train.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multitask.data.adapters.base import Adapter, Files, HubDataset, TaskData
from multitask.data.readers import Rejects, select
from multitask.tasks import Example

LETTERS = ("A", "B", "C", "D", "E")
_COLUMNS = ("id", "question", "choices", "answerKey")


def _read(files: Files, rejects: Rejects) -> TaskData:
    return TaskData(
        labels=LETTERS,
        splits={
            "train": _split(files["train"], rejects),
            "test": _split(files["validation"], rejects),
        },
    )


def _split(paths: tuple[Path, ...], rejects: Rejects) -> list[Example]:
    examples = []
    seen: set[str] = set()
    for path in paths:
        for row, (id_, question, choices, answer) in select(path, _COLUMNS, rejects):
            fault = _fault(id_, question, choices, answer)
            if fault is None and id_ in seen:
                fault = "duplicate id"
            if fault is not None:
                rejects.add(path, row, fault, detail=f"(id {id_!r})")
                continue
            seen.add(id_)
            texts = tuple(str(text) for text in choices["text"])
            examples.append(Example(id=id_, text=question, label=answer, choices=texts))
    return examples


def _fault(id_: Any, question: Any, choices: Any, answer: Any) -> str | None:
    if not isinstance(id_, str) or not id_:
        return "no id"
    if not isinstance(question, str) or not question.strip():
        return "no question"
    if not isinstance(choices, dict) or not {"label", "text"} <= choices.keys():
        return "'choices' needs the lists 'label' and 'text'"
    if tuple(choices["label"]) != LETTERS or len(choices["text"]) != len(LETTERS):
        return f"the options are not {', '.join(LETTERS)}"
    if answer not in LETTERS:
        return "the answer is no option"
    return None


ADAPTER = Adapter(
    name="commonsense_qa",
    hub=(
        HubDataset(
            "tau/commonsense_qa",
            "94630fe30dad47192a8546eb75f094926d47e155",
            rows={"train": 9_741, "test": 1_221},
        ),
    ),
    files={"train": "train.jsonl", "validation": "validation.jsonl"},
    read=_read,
)
