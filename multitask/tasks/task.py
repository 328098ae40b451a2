"""The task: one definition for its training rows, its scoring and its serving."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from multitask.errors import InputError
from multitask.tasks.example import Example
from multitask.tasks.kinds import Kind, kind_named
from multitask.tasks.template import Template

if TYPE_CHECKING:
    from multitask.metrics.registry import Metric

Answers = Literal["letter", "text"]


@dataclass(frozen=True)
class Task:
    """A task with its label space and its phrasings.

    Attributes:
        name: The task's name in specs, data and reports.
        kind: The sort of answer.
        labels: Every answer there is, in the order of the label ids: the classes of a
            classification, the option letters of a multiple choice; empty for generation.
        templates: At least one phrasing.
        list_labels: Whether prompts name the labels to choose from.
        answers: Multiple choice is answered by the option's letter or by its text.
        asked_labels: Labels of which each is asked for by itself, yes or no; none but of a kind
            whose rows have several, where ``labels`` are the answers to that.
        positive_label: Of two classes, the one that is looked for; None: the rarer one.
        metrics: Names of the metrics that are wanted, the headline first; none: the kind's.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    templates: tuple[Template, ...]
    list_labels: bool = False
    answers: Answers = "letter"
    positive_label: str | None = None
    asked_labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def template(self, name: str) -> Template:
        """The phrasing of that name; KeyError when the task has none such."""
        for template in self.templates:
            if template.name == name:
                return template
        raise KeyError(name)

    def prompt(self, example: Example, template: Template) -> str:
        """The user's message for an example."""
        fields = self.constants() | self.kind.variables(example)
        return template.render_prompt(fields, row=example.id)

    def response(self, example: Example, template: Template) -> str:
        """The assistant's message that gives the gold answer of an example."""
        return self.response_for(example.label, template, choices=example.choices, row=example.id)

    def response_for(
        self, label: str, template: Template, *, choices: tuple[str, ...] = (), row: str = ""
    ) -> str:
        """The assistant's message that gives a label as the answer."""
        answer = self.kind.answer(self, label, choices)
        fields = {"label": label, "answer": answer, "response": label, "output": label}
        return template.render_response(fields, row=row)

    def candidates(self, choices: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The labels that a row with these options can have."""
        return self.kind.candidates(self, choices)

    def chosen_metrics(self) -> list[Metric]:
        """The metrics that are wanted, the headline first.

        Raises:
            InputError: One is unknown, is not for such a task, or cannot be imported.
        """
        from multitask.metrics.registry import chosen

        where = f"task {self.name!r}: key 'metrics'"
        return chosen(self.metrics, self.kind.name, self.kind.measures, where)

    def constants(self) -> dict[str, object]:
        """The variables of a prompt that are the same for every row."""
        return {
            "labels": self.asked_labels or self.labels,
            "list_labels": self.list_labels,
            "answers": self.answers,
        }


def keep_metrics(task: Task, root: Path) -> Task:
    """The task with the files of its own metrics in a run, where it can be evaluated anywhere.

    Raises:
        InputError: A file needs what lies beside it and is not copied.
    """
    if not task.metrics:
        return task
    from multitask.metrics.registry import keep_module

    kept = replace(task, metrics=tuple(keep_module(name, root) for name in task.metrics))
    folders = {str(Path(name.rpartition(":")[0]).parent) for name in task.metrics if ".py:" in name}
    try:
        # What lies beside the original is imported already, and would be found.
        for module in [m for m in sys.modules.values() if _folder(m) in folders]:
            sys.modules.pop(module.__name__, None)
        _found_metrics(kept, root).chosen_metrics()
    except InputError as error:
        raise InputError(
            f"the module of an own metric cannot be imported by itself ({error.what})",
            where=f"task {task.name!r}: key 'metrics'",
            fix="make it one file, or a package that is installed wherever the run is evaluated",
        ) from None
    return kept


def _folder(module: ModuleType) -> str:
    return os.path.dirname(getattr(module, "__file__", None) or "")  # noqa: PTH120 (of thousands)


def _found_metrics(task: Task, root: Path) -> Task:
    from multitask.metrics.registry import kept_module

    return replace(task, metrics=tuple(kept_module(name, root) for name in task.metrics))


def task_record(task: Task) -> dict[str, Any]:
    """The whole definition as plain data, so that a run can be scored wherever it goes."""
    return {
        "kind": str(task.kind),
        "labels": list(task.labels),
        "list_labels": task.list_labels,
        "answers": task.answers,
        "positive_label": task.positive_label,
        **({"asked_labels": list(task.asked_labels)} if task.asked_labels else {}),
        **({"metrics": list(task.metrics)} if task.metrics else {}),
        "templates": [
            {"name": t.name, "prompt": t.prompt, "response": t.response} for t in task.templates
        ],
    }


def task_from_record(name: str, record: Mapping[str, Any], root: Path | None = None) -> Task:
    """Put a task together again from :func:`task_record`.

    Args:
        name: The task's name.
        record: Its record.
        root: The run whose files of own metrics are meant; needed to measure with them.
    """
    task = Task(
        name=name,
        kind=kind_named(record["kind"]),
        labels=tuple(record["labels"]),
        templates=tuple(Template(**template) for template in record["templates"]),
        list_labels=record["list_labels"],
        answers=record["answers"],
        positive_label=record["positive_label"],
        asked_labels=tuple(record.get("asked_labels", ())),
        metrics=tuple(record.get("metrics", ())),
    )
    return _found_metrics(task, root) if task.metrics and root is not None else task
