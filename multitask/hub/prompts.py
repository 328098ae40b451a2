"""How each task is put to the model: an example of every task, and its label set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multitask.tasks import Task
from multitask.tasks.task import task_record

FILE_NAME = "tasks.json"


@dataclass(frozen=True)
class PromptFormat:
    """A task's prompt, shown by an example that is in no dataset.

    Attributes:
        task: The task's name.
        kind: What sort of answer it wants.
        phrasing: The name of the phrasing shown; training used all of them.
        phrasings: How many there are.
        prompt: The user's message.
        labels: The answers there are; empty where the answer is free.
        responses: The assistant's message for each label.
    """

    task: str
    kind: str
    phrasing: str
    phrasings: int
    prompt: str
    labels: tuple[str, ...]
    responses: tuple[str, ...]

    @property
    def is_closed(self) -> bool:
        """Whether the answer is one of a set."""
        return bool(self.labels)


def prompt_formats(tasks: Sequence[Task]) -> list[PromptFormat]:
    """The prompt format of every task."""
    return [_format(task) for task in tasks]


def _format(task: Task) -> PromptFormat:
    template, example = task.templates[0], task.kind.specimen(task)
    # The texts of options differ from question to question, so they are no label set.
    labels = () if task.kind.own_responses(task) else task.candidates(example.choices)
    responses = [task.response_for(label, template, choices=example.choices) for label in labels]
    return PromptFormat(
        task=task.name,
        kind=str(task.kind).replace("_", " "),
        phrasing=template.name,
        phrasings=len(task.templates),
        prompt=task.prompt(example, template),
        labels=tuple(labels),
        responses=tuple(responses),
    )


def tasks_record(tasks: Sequence[Task]) -> dict[str, Any]:
    """The content of ``tasks.json``: definitions, and label and response pairs of each task."""
    record = {}
    for task, shown in zip(tasks, prompt_formats(tasks), strict=True):
        record[task.name] = {
            **task_record(task),
            "responses": dict(zip(shown.labels, shown.responses, strict=True)),
        }
    return record
