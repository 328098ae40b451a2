"""What hands a run to a training engine: a folder an engine, found by its module ``runner``."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from multitask.errors import InputError

if TYPE_CHECKING:
    from multitask.models import ModelInfo
    from multitask.run import Run
    from multitask.runners.base import Runner


@cache
def runners() -> tuple[Runner, ...]:
    """All engines, by the names of their folders."""
    folders = sorted(found.name for found in iter_modules(__path__) if found.ispkg)
    return tuple(import_module(f"{__name__}.{name}.runner").RUNNER for name in folders)


def runner_for(model: ModelInfo) -> Runner:
    """The engine that trains a model.

    Raises:
        InputError: There is none.
    """
    for runner in runners():
        if runner.trains(model):
            return runner
    raise InputError(
        f"no engine of this installation trains '{model.model_type}' models",
        where="key 'model'",
        fix="use a causal language model",
    )


def runner_of(run: Run) -> Runner:
    """The engine that a run was built for, by the file in it; the first one where it has none."""
    found = [runner for runner in runners() if (run.root / runner.file).is_file()]
    return (found or runners())[0]
