"""What ships in ``templates/``: a file per task, and phrasings for each kind of task."""

from __future__ import annotations

from functools import cache

from multitask.errors import InputError
from multitask.files import read_mapping
from multitask.resources import resource_dir
from multitask.tasks.kinds import Kind
from multitask.tasks.template import Template


@cache
def task_names() -> tuple[str, ...]:
    """Names of the shipped tasks, sorted."""
    return tuple(sorted(path.stem for path in resource_dir("templates").glob("*.yaml")))


@cache
def generic_templates(kind: Kind) -> tuple[Template, ...]:
    """The phrasings of a task that brings none of its own.

    Raises:
        InputError: The file is not as it should be.
    """
    path = resource_dir("templates") / "generic" / f"{kind}.yaml"
    try:
        return tuple(Template(**entry) for entry in read_mapping(path)["templates"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"needs `templates` with name, prompt and response ({error})", where=path
        ) from None
