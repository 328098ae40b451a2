"""The mixture: the rows of all tasks, put into words and shuffled together."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from multitask.data.split import row_key
from multitask.tasks import Example, Kind, Task

Row = dict[str, Any]


def render(task: Task, examples: Iterable[Example], *, seed: int) -> list[Row]:
    """Put a task's rows into words, one phrasing per row chosen by seed and content.

    Returns:
        Rows with ``messages`` (user, assistant), ``task``, ``id``, ``template``, ``text``, and
        the gold answer under ``label`` (classification) or ``answer`` (multiple choice, with
        its ``choices``).
    """
    rows = []
    for example in examples:
        number = int.from_bytes(row_key(example, seed))
        template = task.templates[number % len(task.templates)]
        row: Row = {
            "messages": [
                {"role": "user", "content": task.prompt(example, template)},
                {
                    "role": "assistant",
                    "content": task.response(example.label, template, row=example.id),
                },
            ],
            "task": task.name,
            "id": example.id,
            "template": template.name,
            "text": example.text,
        }
        if task.kind is Kind.MULTIPLE_CHOICE:
            row |= {"answer": example.label, "choices": list(example.choices)}
        else:
            row |= {"label": example.label}
        rows.append(row)
    return rows


def gold(row: Row) -> str:
    """The gold answer of a row, in the task's label space."""
    value: str = row["label"] if "label" in row else row["answer"]
    return value


def mix(rows_by_task: Sequence[Sequence[Row]], *, seed: int) -> list[Row]:
    """Shuffle the rows of several tasks together.

    The first rows are one of each task. ``datasets`` infers a JSON file's columns from its first
    10 MB and dies on a column that first appears later, as it would in a mixture of one large
    and one small task.
    """
    rows = [row for task_rows in rows_by_task for row in task_rows]
    random.Random(seed).shuffle(rows)  # noqa: S311 (reproducible, not secret)
    lead: dict[str, int] = {}
    for index, row in enumerate(rows):
        lead.setdefault(row["task"], index)
    front = set(lead.values())
    return [rows[i] for i in lead.values()] + [r for i, r in enumerate(rows) if i not in front]
