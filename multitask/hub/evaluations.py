"""The evaluations of a run that are of the model which is pushed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.errors import InputError
from multitask.evaluation.model_key import model_key
from multitask.evaluation.models import same_model
from multitask.evaluation.names import DEFAULT_NAME
from multitask.run import Run


@dataclass(frozen=True)
class Evaluation:
    """One ``results.json``.

    Attributes:
        name: The evaluation's name.
        split: What was evaluated.
        tasks: The record of each task.
        path: The file.
    """

    name: str
    split: str
    tasks: Mapping[str, Any]
    path: Path


def own_evaluations(run: Run, folder: Path) -> tuple[list[Evaluation], list[str]]:
    """The evaluations of a run's model as it is now.

    Those of other models, such as the base, and those made before the weights changed are left
    out: a card must not give them as this model's.

    Args:
        run: The run.
        folder: The model that is pushed.

    Returns:
        The evaluations, the default one first, and a sentence on each that is out of date.

    Raises:
        InputError: A results.json cannot be read.
    """
    found: list[Evaluation] = []
    notes: list[str] = []
    key = hashlib.sha256(model_key(str(folder)).encode()).hexdigest()
    paths = run.evaluations.glob("*/results.json") if run.evaluations.is_dir() else ()
    for path in sorted(paths, key=lambda p: (p.parent.name != DEFAULT_NAME, p.parent.name)):
        results = _read(path)
        made_of = results.get("key", {}).get("model")
        if made_of == key:
            name = path.parent.name
            found.append(Evaluation(name, results["split"], results["tasks"], path))
        elif same_model(str(results["model"]), folder) or (
            path.parent.name == DEFAULT_NAME and folder == run.model
        ):
            notes.append(
                f"{path.parent.name} was evaluated with other weights and is not in the card; "
                f"run `multitask evaluate {run.root} --name {path.parent.name}` again"
            )
    return found, notes


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"not JSON: {error}", where=path, fix="evaluate again with `multitask evaluate`"
        ) from None
    return content
