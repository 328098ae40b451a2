"""The commands of a job's phases, from what its run directory says."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from multitask.errors import InputError
from multitask.machine.checks import Wanted
from multitask.machine.protocol import Phase
from multitask.machine.settings import Place

REHEARSAL_FILE = "rehearsal-layout.json"
"""Marks a run directory that is itself a rehearsal, staged to train on CPUs."""

_MULTITASK = (sys.executable, "-m", "multitask")
_ORDER: tuple[Phase, ...] = ("evaluating", "reporting", "pushing")


class Commands:
    """What a job starts. A test may give other commands."""

    def __init__(self, run_root: Path) -> None:
        """Read a run directory when asked, not before: it may not be uploaded yet."""
        self.root = run_root

    def wanted(self, bundle: str) -> Wanted:
        """What the run needs of each node.

        Raises:
            InputError: The spec or its cluster is wrong.
        """
        if self._rehearsal() is not None:
            return Wanted(bundle, 0, None)
        from multitask.cluster import load_cluster
        from multitask.spec import load_spec

        cluster = load_cluster(load_spec(self.root).cluster)
        return Wanted(bundle, cluster.gpus_per_node, self._checkpoint_gb())

    def check_place(self, place: Place) -> None:
        """Compare the run's nodes with the machine's.

        Raises:
            InputError: They differ.
        """
        layout = self._rehearsal()
        if layout is not None:
            nodes = layout[0]
        else:
            from multitask.cluster import load_cluster
            from multitask.spec import load_spec

            nodes = load_cluster(load_spec(self.root).cluster).nodes
        if nodes != place.nodes:
            raise InputError(
                f"the run was built for {nodes} node(s), and this job has {place.nodes}",
                where=self.root / "spec.yaml",
                fix="build it for this cluster, or rent the one it was built for",
            )

    def train(self, place: Place) -> tuple[list[str], dict[str, str]]:
        """The training on a node, with its environment; the same command goes on after a stop."""
        cluster = {
            "NODE_RANK": str(place.node),
            "MASTER_ADDR": place.address,
            "MASTER_PORT": str(place.port),
        }
        layout = self._rehearsal()
        if layout is None:
            return [*_MULTITASK, "train", str(self.root), "--resume"], cluster
        nodes, procs = layout
        command = [sys.executable, "-m", "multitask.rehearsal.node", "--resume"]
        command += ["--nodes", str(nodes), "--node", str(place.node), "--procs", str(procs)]
        command += ["--master-addr", place.address, "--master-port", str(place.port)]
        return [*command, str(self.root)], {}

    def after(self, phase: Phase) -> Phase:
        """The phase that follows one on node 0."""
        steps = [*_ORDER] if self._repo() else [*_ORDER[:-1]]
        later = steps if phase == "training" else steps[steps.index(phase) + 1 :]
        return later[0] if later else "done"

    def of(self, phase: Phase, gpus: int) -> list[str]:
        """The command of a phase after the training."""
        run = str(self.root)
        if phase == "evaluating":
            shared = ["--processes", str(gpus)] if gpus > 1 else []
            return [*_MULTITASK, "evaluate", run, *shared]
        if phase == "reporting":
            return [*_MULTITASK, "report", run]
        assert phase == "pushing"
        return [*_MULTITASK, "push", run, str(self._repo())]

    def _repo(self) -> str | None:
        from multitask.spec import load_spec

        hub = load_spec(self.root).hub
        return None if hub is None or self._rehearsal() is not None else hub.repo

    def _rehearsal(self) -> tuple[int, int] | None:
        """Nodes and processes of a rehearsal; None for a run that trains as it was built."""
        path = self.root / REHEARSAL_FILE
        if not path.is_file():
            return None
        try:
            layout: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8"))
            nodes, procs = layout["nodes"], layout["procs"]
        except (ValueError, KeyError, TypeError):
            nodes = procs = None
        if type(nodes) is not int or type(procs) is not int or min(nodes, procs) < 1:
            raise InputError('is not {"nodes": N, "procs": M}', where=path)
        return nodes, procs

    def _checkpoint_gb(self) -> float | None:
        from multitask.data.workload import workload_of
        from multitask.models import model_info
        from multitask.planning.decide import decide
        from multitask.run import Run
        from multitask.spec import load_spec

        spec = load_spec(self.root)
        quote = decide(
            spec, model_info(spec.model, self.root), workload_of(Run(self.root))
        ).estimate
        return None if quote is None else quote.checkpoint_gb
