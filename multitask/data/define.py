"""From an entry of a spec's ``tasks`` to its definition."""

from __future__ import annotations

from multitask.data.mapping import check_parts
from multitask.data.scorable import require_distinct_responses
from multitask.errors import InputError, did_you_mean
from multitask.spec import shipped_task
from multitask.task_spec import TaskSpec, TemplateSpec, TemplatesSpec
from multitask.tasks import Task, Template, generic_templates, task_names

# Where a spec does not say: this many labels are named in the prompt, more are left to training.
_LISTED = 10


def task_of(entry: str | TaskSpec) -> TaskSpec:
    """The declaration behind an entry of ``tasks``.

    Raises:
        InputError: Its columns or metrics do not fit its kind.
    """
    task = shipped_task(entry) if isinstance(entry, str) else entry
    check_parts(task)
    if task.metrics:
        from multitask.metrics.registry import chosen

        where = f"task {task.name!r}: key 'metrics'"
        chosen(task.metrics, task.kind.name, task.kind.measures, where)
    return task


def define_task(declared: TaskSpec, labels: tuple[str, ...], words: TemplatesSpec) -> Task:
    """Put a task's definition together.

    Args:
        declared: Its declaration.
        labels: The label space that its data gave.
        words: How the spec wants tasks worded.

    Raises:
        InputError: A template is wrong, or two labels get the same response.
    """
    list_labels = words.list_labels
    if list_labels is None:
        list_labels = len(labels) <= _LISTED
    task = Task(
        name=declared.name,
        kind=declared.kind,
        labels=labels,
        templates=_templates(declared)[: words.phrasings],
        list_labels=list_labels,
        answers=words.answers,
        positive_label=declared.positive_label,
        metrics=tuple(declared.metrics or ()),
    )
    task = task.kind.define(task)
    require_distinct_responses(task)
    if declared.positive_label is not None:
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


def _templates(declared: TaskSpec) -> tuple[Template, ...]:
    template = declared.template
    if template is None:
        return generic_templates(declared.kind)
    if isinstance(template, str):
        if template not in task_names():
            raise InputError(
                f"unknown template {template!r}",
                where=f"task {declared.name!r}: key 'template'",
                fix=did_you_mean(template, task_names()),
            )
        shipped = shipped_task(template)
        if shipped.kind is not declared.kind:
            raise InputError(
                f"the template {template!r} is for {shipped.kind}, not {declared.kind}",
                where=f"task {declared.name!r}: key 'template'",
            )
        return _templates(shipped)
    several = [template] if isinstance(template, TemplateSpec) else template
    names = [one.name for one in several]
    if len(set(names)) < len(names):
        names = [f"{name}-{i}" for i, name in enumerate(names, start=1)]
    return tuple(
        Template(name, one.prompt, one.response) for name, one in zip(names, several, strict=True)
    )
