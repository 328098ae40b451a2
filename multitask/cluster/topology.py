"""How a model's state is spread over the GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from multitask.cluster.cluster import Cluster
from multitask.errors import InputError


class Sharding(StrEnum):
    """What is partitioned among GPUs, and by whom.

    - ``none``: one process.
    - ``ddp``: nothing; every GPU holds all of it (PyTorch DDP).
    - ``fsdp``: weights, gradients and optimizer over all GPUs (PyTorch FSDP2, full shard).
    - ``hsdp``: the same inside each node, and every node holds a copy (FSDP2, hybrid shard).
    - ``zero1``, ``zero2``, ``zero3``: optimizer; and gradients; and weights (DeepSpeed ZeRO).
    """

    NONE = "none"
    DDP = "ddp"
    FSDP = "fsdp"
    HSDP = "hsdp"
    ZERO1 = "zero1"
    ZERO2 = "zero2"
    ZERO3 = "zero3"

    @property
    def deepspeed_stage(self) -> int | None:
        """The ZeRO stage, where DeepSpeed does it."""
        return int(self.value[-1]) if self.value.startswith("zero") else None

    @property
    def is_fsdp(self) -> bool:
        """Whether FSDP2 does it."""
        return self in (Sharding.FSDP, Sharding.HSDP)


@dataclass(frozen=True)
class Topology:
    """A sharding on a cluster.

    Attributes:
        sharding: What is partitioned.
        shard: GPUs that share one copy of the state.
        replicate: Copies; ``shard * replicate`` is the world size.
        cpu_offload: Whether parameters and optimizer rest in main memory between uses.
        reason: Why this one, in a few words.
    """

    sharding: Sharding
    shard: int
    replicate: int
    cpu_offload: bool
    reason: str


def choose_topology(
    wanted: str,
    cluster: Cluster,
    *,
    cpu_offload: bool = False,
    possible: Sequence[str] | None = None,
    fits_node: bool | None = None,
) -> Topology:
    """Decide how to shard.

    Args:
        wanted: ``auto`` or a :class:`Sharding`.
        cluster: The GPUs.
        cpu_offload: Keep parameters and optimizer in main memory between uses.
        possible: The shardings that the method works with; None for all.
        fits_node: Whether the model's state fits the GPUs of one node; None when not known.

    Raises:
        InputError: The cluster or the method cannot be sharded that way.
    """
    allowed = [str(s) for s in Sharding if _runs_on(s, cluster)]
    if possible is not None:
        allowed = [name for name in allowed if name in possible]
    if wanted == "auto":
        sharding, reason = _automatic(cluster, allowed, fits_node)
    else:
        sharding, reason = Sharding(wanted), "as the spec says"
        if wanted not in allowed:
            raise InputError(
                f"sharding '{wanted}' does not work here: {_why_not(sharding, cluster)}",
                where="key 'sharding'",
                fix=f"use one of: {', '.join(['auto', *allowed])}",
            )
    if cpu_offload and (sharding in (Sharding.NONE, Sharding.DDP, Sharding.ZERO1)):
        raise InputError(
            f"CPU offload needs fsdp, hsdp, zero2 or zero3; this run's sharding is '{sharding}'",
            where="key 'cpu_offload'",
            fix="set `sharding`, or remove `cpu_offload`",
        )
    shard, replicate = _sizes(sharding, cluster)
    return Topology(sharding, shard, replicate, cpu_offload, reason)


def _runs_on(sharding: Sharding, cluster: Cluster) -> bool:
    if cluster.world_size == 1:
        return sharding is Sharding.NONE
    if sharding is Sharding.HSDP:
        return cluster.nodes > 1 and cluster.gpus_per_node > 1
    return sharding is not Sharding.NONE


def _why_not(sharding: Sharding, cluster: Cluster) -> str:
    if _runs_on(sharding, cluster):
        return "the method does not work with it"
    if cluster.world_size == 1:
        return f"{cluster.description} is one process"
    return f"it needs several nodes with several GPUs, not {cluster.description}"


def _automatic(
    cluster: Cluster, allowed: Sequence[str], fits_node: bool | None
) -> tuple[Sharding, str]:
    if cluster.world_size == 1:
        return Sharding.NONE, "one process"
    if "fsdp" not in allowed:
        if not allowed:
            raise InputError(
                f"the method works on no sharding of {cluster.description}", where="key 'method'"
            )
        return Sharding(allowed[0]), "the method's weights cannot be sharded"
    if "hsdp" in allowed and fits_node:
        return Sharding.HSDP, "the state fits one node, so only gradients cross the network"
    if cluster.nodes > 1:
        why = "its size is not known" if fits_node is None else "the state needs more than a node"
        return Sharding.FSDP, f"over all nodes, since {why}"
    return Sharding.FSDP, "over the node's GPUs"


def _sizes(sharding: Sharding, cluster: Cluster) -> tuple[int, int]:
    world = cluster.world_size
    if sharding in (Sharding.NONE, Sharding.DDP):
        return 1, world
    if sharding is Sharding.HSDP:
        return cluster.gpus_per_node, cluster.nodes
    return world, 1
