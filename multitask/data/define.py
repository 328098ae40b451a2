"""From an entry of a spec's ``tasks`` to its adapter and its definition."""

from __future__ import annotations

from multitask.data.adapters import Adapter, load_adapter
from multitask.data.mapping import mapped_adapter
from multitask.data.scorable import require_distinct_responses
from multitask.errors import InputError, did_you_mean
from multitask.task_spec import TaskSpec, TemplateSpec, TemplatesSpec
from multitask.tasks import Task, Template, shipped_kind, shipped_templates, task_names

# Where a spec does not say: this many labels are named in the prompt, more are left to training.
_LISTED = 10


def adapter_of(entry: str | TaskSpec) -> Adapter:
    """The adapter of a shipped or a declared task."""
    return load_adapter(entry) if isinstance(entry, str) else mapped_adapter(entry)


def define_task(entry: str | TaskSpec, labels: tuple[str, ...], words: TemplatesSpec) -> Task:
    """Put a task's definition together.

    Args:
        entry: A shipped task's name, or a declared task.
        labels: The label space that its data gave.
        words: How the spec wants tasks worded.

    Raises:
        InputError: A template is wrong, or two labels get the same response.
    """
    kind = shipped_kind(entry) if isinstance(entry, str) else entry.kind
    list_labels = words.list_labels
    if list_labels is None:
        list_labels = len(labels) <= _LISTED
    task = Task(
        name=entry if isinstance(entry, str) else entry.name,
        kind=kind,
        labels=labels,
        templates=_templates(entry)[: words.phrasings],
        list_labels=list_labels,
        answers=words.answers,
        positive_label=None if isinstance(entry, str) else entry.positive_label,
    )
    require_distinct_responses(task)
    if task.positive_label is not None:
        _require_two_labels(task)
    return task


def _require_two_labels(task: Task) -> None:
    """See that a positive label is one of two.

    Raises:
        InputError: It is not, or the task is no classification with two labels.
    """
    where = f"task {task.name!r}: key 'positive_label'"
    if "positive_label" not in task.kind.keys or len(task.labels) != 2:
        what = f"{len(task.labels)} labels" if task.labels else f"the kind {task.kind}"
        raise InputError(
            f"a positive label needs a classification with two labels, and this task has {what}",
            where=where,
            fix="remove the key",
        )
    if task.positive_label not in task.labels:
        raise InputError(
            f"unknown label {task.positive_label!r}",
            where=where,
            fix=did_you_mean(str(task.positive_label), task.labels),
        )


def _templates(entry: str | TaskSpec) -> tuple[Template, ...]:
    if isinstance(entry, str):
        return shipped_templates(entry)
    template = entry.template
    if template is None:
        return shipped_templates(f"generic/{entry.kind}")
    if isinstance(template, str):
        if template not in task_names():
            raise InputError(
                f"unknown template {template!r}",
                where=f"task {entry.name!r}: key 'template'",
                fix=did_you_mean(template, task_names()),
            )
        if shipped_kind(template) is not entry.kind:
            raise InputError(
                f"the template {template!r} is for {shipped_kind(template)}, not {entry.kind}",
                where=f"task {entry.name!r}: key 'template'",
            )
        return shipped_templates(template)
    several = [template] if isinstance(template, TemplateSpec) else template
    names = [one.name for one in several]
    if len(set(names)) < len(names):
        names = [f"{name}-{i}" for i, name in enumerate(names, start=1)]
    return tuple(
        Template(name, one.prompt, one.response) for name, one in zip(names, several, strict=True)
    )
