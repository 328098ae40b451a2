"""The tasks that ship with multitask: a template file each, an adapter each."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from multitask.errors import InputError
from multitask.resources import resource_dir
from multitask.tasks.task import Kind, Task
from multitask.tasks.template import Template


@cache
def task_names() -> tuple[str, ...]:
    """Names of the shipped tasks, sorted."""
    return tuple(sorted(path.stem for path in resource_dir("templates").glob("*.yaml")))


@cache
def _definition(name: str) -> dict[str, Any]:
    path = resource_dir("templates") / f"{name}.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def load_task(name: str, labels: tuple[str, ...]) -> Task:
    """Put a shipped task together.

    Args:
        name: One of :func:`task_names`.
        labels: Its label space, as the data's adapter gives it.

    Raises:
        InputError: The template file is not as it should be.
    """
    definition = _definition(name)
    try:
        templates = tuple(Template(**entry) for entry in definition["templates"])
        kind = Kind(definition["kind"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"needs `kind` and `templates` with name, prompt and response ({error})",
            where=resource_dir("templates") / f"{name}.yaml",
        ) from None
    return Task(name=name, kind=kind, labels=labels, templates=templates)
