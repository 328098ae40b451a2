"""Accelerate's configuration, and the module that it launches."""

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
