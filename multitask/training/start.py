"""Start a run's training on this node once, without supervision: what ``RUN/launch/*.sh`` do.

``python -m multitask.training.start accelerate|torchrun RUN [ARGUMENT...]`` becomes that launch;
arguments are handed on to the engine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from multitask.cluster import load_cluster
from multitask.errors import MultitaskError
from multitask.run import Run
from multitask.spec import load_spec
from multitask.training.command import launch_command, launch_environment, torchrun_command
from multitask.training.nodes import node_environment, nodes_for


def start(launcher: str, root: Path, arguments: Sequence[str]) -> None:
    """Replace this process by the launch of a run's training on this node.

    Args:
        launcher: ``accelerate`` or ``torchrun``.
        root: The run directory.
        arguments: Handed on to the engine.

    Raises:
        InputError: The run is not built, or the environment does not fit its cluster.
    """
    run = Run.open(root)
    run.require(run.engine_file, f"multitask build-config {run.spec} --out {run.root}")
    cluster = load_cluster(load_spec(run.spec).cluster)
    place = nodes_for(cluster, node_environment())
    launch = torchrun_command if launcher == "torchrun" else launch_command
    command = [*launch(run, cluster, place), *arguments]
    each = max(1, cluster.gpus_per_node)
    environment = launch_environment(run, nodes=cluster.nodes, processes=each)
    run.logs.mkdir(exist_ok=True)
    os.execve(command[0], command, environment)  # noqa: S606


if __name__ == "__main__":
    try:
        start(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    except MultitaskError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
