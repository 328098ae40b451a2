"""A rehearsal as a run directory of its own, for machines elsewhere to train on their CPUs.

``multitask rehearse`` starts all nodes on this machine. A run that is staged here is uploaded and
trained like any other, by the machines' own entrypoint, and shows upload, checks, restarts and
removal at the price of CPUs.
"""

from __future__ import annotations

import json
from pathlib import Path

from multitask.cluster import load_cluster
from multitask.machine.commands import REHEARSAL_FILE
from multitask.rehearsal.adapt import Change, Sizes
from multitask.rehearsal.checklist import Checklist
from multitask.rehearsal.rehearse import Rehearsal, follow_layout
from multitask.rehearsal.stage import stage_rehearsal
from multitask.run import Run, staged_folder
from multitask.spec import load_spec


def stage_for_machines(
    run: Run, out: Path, *, nodes: int, procs: int, sizes: Sizes
) -> list[Change]:
    """Write the rehearsal of a run as a run directory.

    Args:
        run: The run as it was built for its cluster.
        out: The new run directory.
        nodes: Machines that will train it.
        procs: Processes on each.
        sizes: How long and how small.

    Returns:
        What differs from the cluster's run.

    Raises:
        InputError: The run is not built, or ``out`` exists.
    """
    cluster = load_cluster(load_spec(run.spec).cluster)
    with staged_folder(out) as stage:
        stage.rmdir()  # staging makes it
        result = Rehearsal(run, nodes, procs, Checklist())
        result.changes = stage_rehearsal(run, stage, sizes)
        follow_layout(Run(stage), result, cluster)
        layout = {"nodes": nodes, "procs": procs}
        (stage / REHEARSAL_FILE).write_text(json.dumps(layout) + "\n", encoding="utf-8")
    return result.changes
