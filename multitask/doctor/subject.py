"""What is looked at besides the machine: a spec, a run, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multitask.errors import InputError, MultitaskError
from multitask.run import Run

if TYPE_CHECKING:
    from multitask.cluster import Cluster
    from multitask.data.tokens import Workload
    from multitask.planning.setup import Setup
    from multitask.spec import Spec

# A node of a rented cluster has these; a person's own machine does not.
_NODE_VARIABLES = ("NODE_RANK", "MASTER_ADDR", "PRIMARY_ADDR", "SLURM_JOB_ID", "RUNPOD_POD_ID")


@dataclass(frozen=True)
class Subject:
    """What a user asked about.

    Attributes:
        spec: The spec; None where only the machine is looked at.
        run: The run, where one was named.
        cluster: What the spec trains on; None where it names none that can be read.
        setup: How it would be trained; None where that cannot be decided.
        refusal: Why it cannot be decided.
        folder: The run directory, or where it would be made.
    """

    spec: Spec | None = None
    run: Run | None = None
    cluster: Cluster | None = None
    setup: Setup | None = None
    refusal: MultitaskError | None = None
    folder: Path = Path()

    def trains_here(self, gpus: int, environment: Mapping[str, str]) -> bool:
        """Whether this machine is one that should be able to train.

        A machine without GPUs may be where runs are only planned and built: what it lacks for
        training is then worth a warning alone.

        Args:
            gpus: GPUs that were found on it.
            environment: Its variables.
        """
        if self.cluster is not None and self.cluster.on_cpu:
            return True
        return gpus > 0 or any(name in environment for name in _NODE_VARIABLES)


def open_subject(path: Path | None) -> Subject:
    """Read what a user named.

    Args:
        path: A spec file, a run directory, or None.

    Raises:
        InputError: It is neither, or cannot be read.
    """
    if path is None:
        return Subject()
    from multitask.cluster import load_cluster
    from multitask.models import model_info
    from multitask.planning.decide import decide
    from multitask.spec import load_spec

    run = Run.open(path) if path.is_dir() else None
    spec = load_spec(path)
    folder = run.root if run is not None else Path("runs") / spec.name
    cluster = None
    try:
        cluster = load_cluster(spec.cluster)
        info = model_info(spec.model, folder)
        setup = decide(spec, info, _workload(run), refuse=False)
    except InputError as error:
        return Subject(spec, run, cluster, None, error, folder)
    return Subject(spec, run, cluster, setup, None, folder)


def _workload(run: Run | None) -> Workload | None:
    """The run's own rows and tokens; None where its data is missing or broken, which is told."""
    from multitask.data.tokens import workload_of

    if run is None:
        return None
    try:
        return workload_of(run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return None
