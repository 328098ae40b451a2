"""How many nodes and ranks a rehearsal has, and what fewer of them change."""

from __future__ import annotations

import yaml

from multitask.cluster import Cluster
from multitask.errors import InputError
from multitask.files import read_mapping
from multitask.rehearsal.adapt import Change
from multitask.rehearsal.result import Wishes
from multitask.run import Run


def layout(wishes: Wishes, cluster: Cluster) -> tuple[int, int]:
    """How many nodes, and ranks of each.

    Args:
        wishes: What the user asked for.
        cluster: What the run was built for.

    Raises:
        InputError: It cannot be rehearsed.
    """
    nodes = wishes.nodes or cluster.nodes
    procs = wishes.procs or max(1, cluster.gpus_per_node)
    if nodes * procs > 64:
        raise InputError(f"{nodes} x {procs} ranks are too many for one machine")
    return nodes, procs


def follow_layout(calm: Run, cluster: Cluster, *, nodes: int, procs: int) -> list[Change]:
    """Fit the mesh of a staged rehearsal to another number of ranks than the cluster has.

    Args:
        calm: The rehearsal's run directory.
        cluster: What the run was built for.
        nodes: Nodes of the rehearsal.
        procs: Ranks of each.

    Returns:
        What that changed.
    """
    if (nodes, procs) == (cluster.nodes, max(1, cluster.gpus_per_node)):
        return []
    config = read_mapping(calm.axolotl)
    why = f"{nodes} x {procs} ranks were asked for"
    was_layout = f"{cluster.nodes} x {cluster.gpus_per_node}"
    now_layout = f"{nodes} x {procs}"
    changes = [Change("ranks", was_layout, now_layout, why, "the cluster's number of ranks")]
    if "dp_shard_size" in config:
        was = {key: config.pop(key) for key in ("dp_shard_size", "dp_replicate_size")}
        if nodes > 1 and procs > 1:
            config |= {"dp_shard_size": procs, "dp_replicate_size": nodes}
        for key, value in was.items():
            changes.append(Change(key, value, config.get(key), why))
    if nodes * procs == 1:
        found = [key for key in ("fsdp_version", "fsdp_config") if key in config]
        changes += [Change(key, config.pop(key), None, why, "sharding") for key in found]
    calm.axolotl.write_text(
        yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return changes
