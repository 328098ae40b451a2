"""What a spec's run would need and cost, here and on other machines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multitask.data.prepare import prepare
from multitask.data.tokens import Workload, workload_of
from multitask.errors import InputError
from multitask.estimate import Row
from multitask.models import model_info
from multitask.planning.decide import alternatives, decide
from multitask.planning.setup import Setup
from multitask.run import Run
from multitask.spec import Spec


@dataclass(frozen=True)
class Comparison:
    """A spec's own plan, and the others.

    Attributes:
        setup: The plan of the spec.
        rows: Estimates with every shipped cluster and method; those that fit first, the cheapest
            on top.
    """

    setup: Setup
    rows: list[Row]


def compare_plans(
    spec: Spec, run: Run | None = None, *, report: Callable[[str], None] = lambda _: None
) -> Comparison:
    """Estimate a spec's run, and the same run on every shipped cluster with every method.

    Args:
        spec: The user's choices.
        run: A prepared run of it, whose rows and tokens count; else the data is read now.
        report: Told what is being done.

    Raises:
        InputError: The data cannot be read, or the model's sizes are not known.
    """
    model = model_info(spec.model, run.root if run else Path())
    if model.shape is None:
        raise InputError(
            f"the sizes of {spec.model} are not known, so nothing can be estimated",
            where="key 'model'",
            fix="download its config.json once (`hf download MODEL config.json`), or give a folder",
        )
    workload = workload_of(run) if run is not None else _quick_workload(spec, report)
    setup = decide(spec, model, workload, refuse=False)
    return Comparison(setup, alternatives(spec, model, workload))


def _quick_workload(spec: Spec, report: Callable[[str], None] = lambda _: None) -> Workload:
    """Read a spec's data to count rows and tokens; nothing of it is kept.

    Raises:
        InputError: The data cannot be read.
    """
    # Near-duplicates change the number of rows by a few in a hundred, and cost most of the time.
    quick = spec.model_copy(
        update={"leakage": spec.leakage.model_copy(update={"near_duplicates": False})}
    )
    with tempfile.TemporaryDirectory() as folder:
        return workload_of(prepare(quick, Path(folder) / "run", report=report))
