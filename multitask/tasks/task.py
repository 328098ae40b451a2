"""The task: one definition for its training rows, its scoring and its serving."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from multitask.tasks.example import Example
from multitask.tasks.template import Template


class Kind(StrEnum):
    """What sort of answer a task wants."""

    CLASSIFICATION = "classification"
    MULTIPLE_CHOICE = "multiple_choice"


Message = dict[str, str]


@dataclass(frozen=True)
class Task:
    """A task with its closed label space and its phrasings.

    Attributes:
        name: The task's name in specs, data and reports.
        kind: The sort of answer.
        labels: Every answer there is, in the order of the label ids: the classes of a
            classification, the option letters of a multiple choice.
        templates: At least one phrasing.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    templates: tuple[Template, ...]

    def template(self, name: str) -> Template:
        """The phrasing of that name; KeyError when the task has none such."""
        for template in self.templates:
            if template.name == name:
                return template
        raise KeyError(name)

    def prompt(self, example: Example, template: Template) -> str:
        """The user's message for an example."""
        return template.render_prompt(self._fields(example), row=example.id)

    def response(self, label: str, template: Template, *, row: str = "") -> str:
        """The assistant's message that gives a label as the answer."""
        return template.render_response({"label": label, "labels": self.labels}, row=row)

    def responses(self, template: Template) -> tuple[str, ...]:
        """The assistant's message for every label, in label order."""
        return tuple(self.response(label, template) for label in self.labels)

    def _fields(self, example: Example) -> dict[str, object]:
        return {
            "text": example.text,
            "question": example.text,
            "choices": example.choices,
            "labels": self.labels,
        }
