"""Accelerate's configuration and the launch command, as arguments and as a shell script."""

from __future__ import annotations

from typing import Any

import yaml

from multitask.cluster import Cluster

TRAIN_MODULE = "axolotl.cli.train"


def accelerate_yaml(cluster: Cluster) -> str:
    """The file that ``accelerate launch --config_file`` reads.

    FSDP itself is configured by Axolotl from its own file, so accelerate only starts processes.
    """
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "NO" if cluster.world_size == 1 else "MULTI_GPU",
        "num_machines": cluster.nodes,
        "num_processes": cluster.world_size,
        "machine_rank": 0,
        "mixed_precision": "no" if cluster.on_cpu else "bf16",
        "use_cpu": cluster.on_cpu,
        "main_training_function": "main",
        "dynamo_config": {},
        "debug": False,
    }
    if cluster.nodes > 1:
        config |= {"rdzv_backend": "static", "same_network": True}
    return yaml.safe_dump(config, sort_keys=False)


def node_script(cluster: Cluster) -> str:
    """A script that starts training on a node; every node runs the same one.

    It finds the run directory from its own place and a node's rank and the first node's address
    from the environment, under the names that torchrun and RunPod use.
    """
    lines = [
        "#!/usr/bin/env bash",
        f"# Starts this run's training on one node of: {cluster.description}.",
        "set -euo pipefail",
        'run="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"',
        "export AXOLOTL_DO_NOT_TRACK=1",
    ]
    arguments = ['--config_file "$run/accelerate.yaml"']
    last = cluster.nodes - 1
    if cluster.nodes > 1:
        lines += [
            f': "${{NODE_RANK:?set NODE_RANK to the number of this node, 0 to {last}}}"',
            ': "${MASTER_ADDR:?set MASTER_ADDR to the address of node 0}"',
        ]
        arguments += [
            '--machine_rank "$NODE_RANK"',
            '--main_process_ip "$MASTER_ADDR"',
            '--main_process_port "${MASTER_PORT:-29500}"',
        ]
    command = " \\\n  ".join(
        ["exec accelerate launch", *arguments, f'-m {TRAIN_MODULE} "$run/axolotl.yaml" "$@"']
    )
    return "\n".join([*lines, command]) + "\n"
