"""The single-task specs that a multi-task run is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from multitask.errors import InputError
from multitask.files import read_json
from multitask.interference.budget import sequences_per_step, steps_of
from multitask.run import Run, staged_folder
from multitask.spec import Spec, load_spec
from multitask.training_spec import BalanceSpec

BudgetKind = Literal["rows", "steps"]

_WHY = {
    "rows": "The same budget in rows: it sees each row of {task} as often as {run} does, with the\n"
    "# same batch and learning rate, so it takes fewer optimizer steps.",
    "steps": "The same budget in steps: it takes the {steps:,} optimizer steps of {run}, with the\n"
    "# same batch and learning rate, so it sees each row of {task} more often.",
}
_HEADER = """\
# Written by `multitask init --preset single-task --from {run} --budget {budget}`.
# {task} alone, to be compared with {run}, of which it has the very rows of each split: `only`
# leaves the other tasks out after the split and the leakage gate.
# {why}
"""


@dataclass(frozen=True)
class SingleTask:
    """A spec for one task of a multi-task run.

    Attributes:
        task: The task.
        spec: Its spec.
        header: What the file says above it.
    """

    task: str
    spec: Spec
    header: str

    def to_yaml(self) -> str:
        """The file."""
        return self.header + self.spec.to_yaml()


def single_task_specs(source: Path, budget: BudgetKind = "rows") -> list[SingleTask]:
    """Make a spec for each task of a multi-task run alone, of the same budget.

    Everything is kept as it is in the run: model, method, learning rate, sequences per step, seed,
    templates, and the rows themselves. What only makes sense with several tasks (`balance`) or
    would overwrite something (`hub`) goes.

    Args:
        source: The run, or its spec.
        budget: ``rows``: each row of the task is seen as often as in the run. ``steps``: as many
            optimizer steps as the run took, which has to be trained for that.

    Raises:
        InputError: There is one task alone, or the batch or the steps are not known.
    """
    spec = load_spec(source)
    if len(spec.kept) < 2:
        raise InputError(
            "there is one task alone, so nothing is shared", where=source, fix="name another run"
        )
    run = Run(source) if source.is_dir() else None
    update = {
        "global_batch_size": _batch(spec, source, run),
        "balance": BalanceSpec(),
        "hub": None,
        "general": (),
    }
    steps = 0
    if budget == "steps":
        steps = _steps(source, run)
    found = []
    for task in spec.kept:
        own = update | {"only": (task,), "name": f"{spec.name}-{task}"}
        own["evaluation"] = _evaluation(spec, task)
        if steps and run is not None:
            own |= _for_steps(spec, run, task, steps)
        words = {"task": task, "run": source.name, "steps": steps}
        header = _HEADER.format(**words, budget=budget, why=_WHY[budget].format(**words))
        found.append(SingleTask(task, spec.model_copy(update=own), header))
    return found


def write_single_task_specs(
    source: Path, out: Path, budget: BudgetKind = "rows"
) -> list[tuple[SingleTask, Path]]:
    """Write them to a new folder, ``TASK.yaml`` each.

    Raises:
        InputError: As `single_task_specs`, or the folder has content.
    """
    specs = single_task_specs(source, budget)
    with staged_folder(out) as stage:
        for single in specs:
            (stage / f"{single.task}.yaml").write_text(single.to_yaml(), encoding="utf-8")
    return [(single, out / f"{single.task}.yaml") for single in specs]


def _batch(spec: Spec, source: Path, run: Run | None) -> int:
    """Sequences per optimizer step; by default they follow from the rows of all tasks."""
    built = None if run is None else sequences_per_step(run)
    if built is not None:
        return built
    if spec.global_batch_size is not None:
        return spec.global_batch_size
    raise InputError(
        "its global batch follows from its data, which is not built yet",
        where=source,
        fix="give the run that `multitask build-config` makes of it, or set `global_batch_size`",
    )


def _steps(source: Path, run: Run | None) -> int:
    steps = None if run is None else steps_of(run)
    if steps is None:
        raise InputError(
            "how many optimizer steps it takes is known once it is trained",
            where=source,
            fix="train it first, or use --budget rows",
        )
    return steps


def _for_steps(spec: Spec, run: Run, task: str, steps: int) -> dict[str, Any]:
    """Keys that end a training of one task after a number of steps."""
    tasks = read_json(run.manifest)["tasks"]
    total = sum(record["mixture"]["rows"] for record in tasks.values())
    # More passes than needed, for which the estimates allow; `max_steps` ends it.
    epochs = math.ceil(1.25 * spec.epochs * total / tasks[task]["mixture"]["rows"])
    own = {key: value for key, value in spec.axolotl.items() if key != "num_epochs"}
    return {"epochs": epochs, "axolotl": own | {"max_steps": steps}}


def _evaluation(spec: Spec, task: str) -> object:
    floor = spec.evaluation.floor
    if isinstance(floor, dict):
        floor = {name: value for name, value in floor.items() if name == task}
    return spec.evaluation.model_copy(update={"floor": floor})
