"""All of a run on rented machines: train, evaluate, report, push; one command for every node.

dstack, SkyPilot, Slurm and the image's entrypoint start the same command. Started again, by
whichever of them retries, it goes on from what lies on the volume.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from multitask.cluster import load_cluster
from multitask.errors import InputError, MultitaskError
from multitask.run import Run, staged_folder
from multitask.spec import Spec, load_spec
from multitask.training.nodes import node_environment, nodes_for

Say = Callable[[str], None]

_PATIENCE = 1800.0
_POLL = 0.5


def bring_run(source: Path, root: Path, *, leads: bool, patience: float = _PATIENCE) -> None:
    """Put a run that came with the machines onto the volume, or see that it is there already.

    Node 0 copies it whole or not at all; the others wait for it. What lies there stays: the
    checkpoints of an earlier start are what a retry goes on from.

    Raises:
        InputError: There is no run in ``source``, or another one in ``root``.
        MultitaskError: Node 0 does not copy it.
    """
    Run.open(source)
    if leads and not root.exists():
        with staged_folder(root) as stage:
            shutil.copytree(source, stage, dirs_exist_ok=True)
    deadline = time.monotonic() + patience
    while not (root / "spec.yaml").is_file():
        if time.monotonic() > deadline:
            raise MultitaskError(
                f"node 0 has not put the run there within {patience:.0f} s",
                where=root,
                fix="mount one volume at the same path on all nodes, and start node 0",
            )
        time.sleep(_POLL)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        there = root / path.relative_to(source)
        if not there.is_file() or there.read_bytes() != path.read_bytes():
            raise InputError(
                f"the volume has another run there: {path.relative_to(source)} differs",
                where=root,
                fix="give this run another folder on the volume, or remove the one that is there",
            )


def later_commands(run: Run, spec: Spec, gpus: int) -> list[list[str]]:
    """The commands that follow the training on node 0, without ``multitask`` itself.

    All GPUs of the node evaluate: dstack's utilization policy ends a run if one of them idles.
    """
    root = str(run.root)
    evaluate = ["evaluate", root, *(["--processes", str(gpus)] if gpus > 1 else [])]
    push = [["push", root]] if spec.hub is not None else []
    return [evaluate, ["report", root], *push]


def run_job(root: Path, source: Path | None, *, train: Callable[[Run], object], say: Say) -> int:
    """Do this node's part of a run.

    Args:
        root: The run directory, on a disk that all nodes see.
        source: The run's files as the launcher brought them; None where they are in ``root``.
        train: Trains a run on this node through restarts, from its newest complete checkpoint.
        say: Told what is being done.

    Returns:
        The exit code: 0, or that of the first command that failed.

    Raises:
        MultitaskError: The run cannot be brought to the volume, or the training failed.
    """
    spec = load_spec(source or root)
    cluster = load_cluster(spec.cluster)
    environment = node_environment()
    place = nodes_for(cluster, environment)
    leads = not place.rank
    if cluster.nodes > 1:
        say(f"node {place.rank} of {cluster.nodes} ({place.launcher}); node 0 is {place.master}")
    if source is not None:
        bring_run(source, root, leads=leads)
    run = Run.open(root)
    train(run)
    if not leads:
        say("trained; node 0 evaluates")
        return 0
    for command in later_commands(run, load_spec(run.spec), cluster.gpus_per_node):
        say(f"multitask {' '.join(command)}")
        code = _call([sys.executable, "-m", "multitask", *command], environment)
        if code:
            return code
    return 0


def _call(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command; a request to stop is handed on to it."""
    # What was meant for the training's processes would make one process wait for others.
    alone = {name: value for name, value in environment.items() if name not in _OF_MANY}
    process = subprocess.Popen(command, env=alone)

    def hand_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code


_OF_MANY = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")
