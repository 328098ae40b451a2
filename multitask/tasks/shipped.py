"""The phrasings that ship with multitask, a file per task and one per kind."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from multitask.errors import InputError
from multitask.resources import resource_dir
from multitask.tasks.kinds import Kind, kind_named
from multitask.tasks.template import Template


@cache
def task_names() -> tuple[str, ...]:
    """Names of the shipped tasks, sorted."""
    return tuple(sorted(path.stem for path in resource_dir("templates").glob("*.yaml")))


def shipped_kind(name: str) -> Kind:
    """The kind of a shipped task."""
    return kind_named(_content(name)["kind"])


def shipped_templates(name: str) -> tuple[Template, ...]:
    """The phrasings of a shipped task, or of ``generic/<kind>``.

    Raises:
        InputError: The file is not as it should be.
    """
    try:
        return tuple(Template(**entry) for entry in _content(name)["templates"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"needs `templates` with name, prompt and response ({error})",
            where=resource_dir("templates") / f"{name}.yaml",
        ) from None


@cache
def _content(name: str) -> dict[str, Any]:
    path = resource_dir("templates") / f"{name}.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content
