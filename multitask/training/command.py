"""The command and environment that start a run's training on this node."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from multitask.cluster import Cluster
from multitask.errors import InputError
from multitask.quiet import set_library_variables
from multitask.run import Run
from multitask.runners.accelerate import TRAIN_MODULE
from multitask.training.attempts import ATTEMPT, NODE, Attempt


def launch_command(
    run: Run,
    cluster: Cluster,
    environment: Mapping[str, str],
    *,
    resume: Path | None,
    rank_logs: Path | None = None,
) -> list[str]:
    """Build ``accelerate launch ... -m axolotl.cli.train`` for this node.

    Args:
        run: The run.
        cluster: What it was built for.
        environment: Where a node's rank and the first node's address are read from.
        resume: The checkpoint to go on from.
        rank_logs: Folder for a log of each process, where there are several.

    Raises:
        InputError: The cluster has several nodes and the environment does not say which this is.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(run.accelerate.resolve())]
    if cluster.nodes > 1:
        command += _rendezvous(cluster, environment)
    if cluster.world_size > 1 and rank_logs is not None:
        # Restarts are the supervisor's: torch's own agent would not look at checkpoints.
        command += ["--max_restarts", "0", "--tee", "3", "--log_dir", str(rank_logs.resolve())]
    command += ["-m", TRAIN_MODULE, str(run.axolotl.resolve())]
    if resume is not None:
        command.append(f"--resume_from_checkpoint={resume.resolve()}")
    return command


def node_of(cluster: Cluster, environment: Mapping[str, str]) -> int:
    """Which node of a cluster this is.

    Raises:
        InputError: The cluster has several nodes and the environment does not say.
    """
    if cluster.nodes == 1:
        return 0
    rank, address = environment.get("NODE_RANK"), environment.get("MASTER_ADDR")
    if rank is None or address is None:
        raise InputError(
            f"the run is for {cluster.nodes} nodes, and NODE_RANK or MASTER_ADDR is not set",
            where="environment",
            fix="start `multitask train` on each node with NODE_RANK=0.."
            f"{cluster.nodes - 1} and MASTER_ADDR=<address of node 0>",
        )
    if not rank.isdigit() or int(rank) >= cluster.nodes:
        raise InputError(
            f"NODE_RANK is {rank!r}", where="environment", fix=f"use 0 to {cluster.nodes - 1}"
        )
    return int(rank)


def _rendezvous(cluster: Cluster, environment: Mapping[str, str]) -> list[str]:
    rank, address = node_of(cluster, environment), environment["MASTER_ADDR"]
    port = environment.get("MASTER_PORT", "29500")
    return ["--machine_rank", str(rank), "--main_process_ip", address, "--main_process_port", port]


def usable_cores() -> int:
    """Cores that this process may use: of the machine, its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups of version 2, or no quota
        return max(1, cores)


def launch_environment(
    run: Run, attempt: Attempt | None = None, node: int = 0, processes: int = 1
) -> dict[str, str]:
    """This process's environment, with what a training of ours always wants.

    Args:
        run: The run.
        attempt: The attempt that the launch belongs to.
        node: This node's rank.
        processes: Processes that train on this node; they share its cores. Left alone, torchrun
            (``torch/distributed/run.py``) and accelerate give each one thread, and the Adam of
            offloaded parameters runs on these.
    """
    environment = dict(os.environ)
    set_library_variables(environment)
    environment.setdefault("WANDB_DIR", str(run.logs.resolve()))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    environment["PYTHONUNBUFFERED"] = "1"
    if attempt is not None:
        environment |= {ATTEMPT: str(attempt.number), NODE: str(node)}
    return environment
