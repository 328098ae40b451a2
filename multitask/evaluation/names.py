"""Names of evaluations, known without importing what scores."""

from __future__ import annotations

import re

from multitask.errors import InputError

DEFAULT_NAME = "trained"
"""The evaluation of a run's own trained model."""

BASE_NAME = "base"
"""The evaluation of the untuned base model."""


def general_name(name: str) -> str:
    """The evaluation of the general tasks that belongs to one of the run's own tasks.

    It lies within the other's folder, ``RUN/evaluation/NAME/general``.
    """
    return f"{name}/general"


def name_of(model: str | None, name: str | None) -> str:
    """The name of an evaluation, which is a folder's: what the user said, else the model's.

    Raises:
        InputError: The name is not that of one folder.
    """
    if name is None:
        return _slug(model) if model else DEFAULT_NAME
    if name != _slug(name):
        raise InputError(
            f"{name!r} cannot be the name of an evaluation", fix=f"such as --name {_slug(name)}"
        )
    return name


def _slug(model: str) -> str:
    return re.sub(r"[^\w.-]+", "-", model.strip("/")).strip("-.") or "model"
