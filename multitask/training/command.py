"""The command and environment that start a run's training on this node."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from multitask.cluster import Cluster
from multitask.quiet import set_library_variables
from multitask.run import Run
from multitask.runners import runner_of
from multitask.training.attempts import ATTEMPT, NODE, Attempt
from multitask.training.nodes import Nodes, network_variables, node_environment


def launch_command(
    run: Run,
    cluster: Cluster,
    nodes: Nodes,
    *,
    resume: Path | None = None,
    rank_logs: Path | None = None,
) -> list[str]:
    """Build ``accelerate launch ... -m ENGINE FILE`` for this node.

    The rendezvous is static: every node is told rank and address beforehand. c10d is said not to
    work on RunPod's clusters, and without it a node that dies cannot make the others wait for ever
    on a membership vote.

    Args:
        run: The run.
        cluster: What it was built for.
        nodes: This node's place, checked by :func:`multitask.training.nodes.nodes_for`.
        resume: The checkpoint to go on from.
        rank_logs: Folder for a log of each process, where there are several.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(run.accelerate.resolve())]
    if cluster.nodes > 1:
        command += ["--machine_rank", str(nodes.rank), "--main_process_ip", str(nodes.master)]
    if cluster.world_size > 1:
        command += ["--main_process_port", str(nodes.port)]
    if cluster.world_size > 1 and rank_logs is not None:
        # Restarts are the supervisor's: torch's own agent would not look at checkpoints.
        command += ["--max_restarts", "0", "--tee", "3", "--log_dir", str(rank_logs.resolve())]
    return [*command, *_engine(run), *([] if resume is None else runner_of(run).resume(resume))]


def _engine(run: Run) -> list[str]:
    """What each process runs."""
    runner = runner_of(run)
    return ["-m", runner.module, str((run.root / runner.file).resolve())]


def torchrun_command(run: Run, cluster: Cluster, nodes: Nodes) -> list[str]:
    """The same with torchrun in accelerate's place.

    The backend is named: with an endpoint alone torchrun would take c10d.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(cluster.nodes)]
    command += ["--nproc_per_node", str(max(1, cluster.gpus_per_node))]
    command += ["--node_rank", str(nodes.rank or 0), "--rdzv_backend", "static"]
    command += ["--max_restarts", "0", "--master_addr", nodes.master or "127.0.0.1"]
    command += ["--master_port", str(nodes.port)]
    return [*command, *_engine(run)]


def usable_cores() -> int:
    """Cores that this process may use: of the machine, its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups of version 2, or no quota
        return max(1, cores)


def launch_environment(
    run: Run,
    attempt: Attempt | None = None,
    node: int = 0,
    nodes: int = 1,
    processes: int = 1,
) -> dict[str, str]:
    """This node's environment, with what a training of ours always wants.

    Args:
        run: The run.
        attempt: The attempt that the launch belongs to.
        node: This node's rank.
        nodes: How many nodes train together.
        processes: Processes that train on this node; they share its cores. Left alone, torchrun
            (``torch/distributed/run.py``) and accelerate give each one thread, and the Adam of
            offloaded parameters runs on these.
    """
    environment = node_environment()
    environment |= network_variables(environment, nodes=nodes)
    set_library_variables(environment)
    environment.setdefault("WANDB_DIR", str(run.logs.resolve()))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    environment["PYTHONUNBUFFERED"] = "1"
    # Launchers' own words for single processes would be taken for ours by what is started.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK"):
        environment.pop(name, None)
    # Training starts in the run directory: a file there, such as yaml.py, is no module.
    environment["PYTHONSAFEPATH"] = "1"
    if attempt is not None:
        environment |= {ATTEMPT: str(attempt.number), NODE: str(node)}
    return environment
