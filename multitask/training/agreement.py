"""What all nodes must agree on before a training that costs money begins.

Every supervisor writes what it finds on its node beside its sign of life, and node 0 compares. So
it serves whichever launcher started the nodes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from multitask.checks import Check
from multitask.digests import sha256
from multitask.run import Run

PACKAGES = ("multitask", "axolotl", "torch", "transformers", "accelerate", "peft")

_SMI_SECONDS = 60


@dataclass(frozen=True)
class NodeFacts:
    """What a node finds on itself.

    Attributes:
        run: Hash of the run's files that a training reads, as this node sees them.
        versions: Versions of the packages that a training depends on; ``none`` for a missing one.
        gpus: GPUs that this node's processes may use.
        free_gb: Free space where checkpoints are written, GB.
    """

    run: str
    versions: Mapping[str, str]
    gpus: int
    free_gb: float


@dataclass(frozen=True)
class Needs:
    """What a run needs of every node.

    Attributes:
        gpus: GPUs a node; None where it does not matter, as on CPUs.
        checkpoint_gb: Size of a checkpoint, GB; None where it is not known.
    """

    gpus: int | None = None
    checkpoint_gb: float | None = None


def gather_facts(run: Run) -> NodeFacts:
    """Look at this node.

    Raises:
        OSError: The run cannot be read.
    """
    return NodeFacts(
        run=run_hash(run),
        versions={name: _version(name) for name in PACKAGES},
        gpus=count_gpus(),
        free_gb=shutil.disk_usage(run.root).free / 1e9,
    )


def run_hash(run: Run) -> str:
    """Hash of the files that a run's training reads, with their names."""
    files = [run.spec, run.axolotl, run.accelerate, run.deepspeed]
    files += sorted(run.data.iterdir()) if run.data.is_dir() else []
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def count_gpus(environ: Mapping[str, str] | None = None) -> int:
    """GPUs that the driver shows and CUDA_VISIBLE_DEVICES leaves; 0 without a driver."""
    chosen = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:  # a GPU that hangs is none
        return 0
    there = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    if chosen is None:
        return there
    return min(there, len([one for one in chosen.split(",") if one.strip() not in ("", "-1")]))


def find_differences(facts: Mapping[int, NodeFacts], needs: Needs) -> list[Check]:
    """Compare the nodes with each other and with what the run needs.

    Args:
        facts: What each node found on itself.
        needs: What the run needs.

    Returns:
        What is wrong; empty where training can begin.
    """
    problems = []

    def compare(what: str, values: dict[int, str], remedy: str) -> None:
        groups: dict[str, list[str]] = {}
        for node, value in sorted(values.items()):
            groups.setdefault(value, []).append(str(node))
        if len(groups) > 1:
            each = (f"{value} on node {', '.join(nodes)}" for value, nodes in groups.items())
            problems.append(Check(f"{what}: {'; '.join(each)}", "all nodes", remedy))

    compare(
        "the run's files differ",
        {node: one.run[:12] for node, one in facts.items()},
        "mount one volume on all nodes, or copy the run again",
    )
    for name in PACKAGES:
        versions = {node: one.versions.get(name, "none") for node, one in facts.items()}
        compare(f"{name} differs", versions, "start all nodes from one image")
    for node, one in sorted(facts.items()):
        if needs.gpus is not None and one.gpus != needs.gpus:
            answer = (
                f"node {node} has {one.gpus} GPUs, and the run was built for {needs.gpus} a node"
            )
            remedy = "replace the node, or build the run for this cluster"
            problems.append(Check(answer, f"node {node}", remedy))
        if needs.checkpoint_gb is not None and one.free_gb < 2 * needs.checkpoint_gb:
            answer = (
                f"node {node} has {one.free_gb:.1f} GB free for the run, and two checkpoints take "
                f"{2 * needs.checkpoint_gb:.1f} GB"
            )
            problems.append(Check(answer, f"node {node}", "make room, or take a larger volume"))
    return problems


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
