"""Batch arithmetic: global batch = GPUs x micro batch x accumulation steps."""

from __future__ import annotations

from dataclasses import dataclass

from multitask.cluster.cluster import Cluster
from multitask.errors import InputError

_DEFAULT_ROWS = 96


@dataclass(frozen=True)
class Batch:
    """How an optimizer step's rows are spread.

    Attributes:
        global_size: Rows per optimizer step over all GPUs.
        micro: Rows per GPU and forward pass.
        accumulation: Forward passes per optimizer step.
    """

    global_size: int
    micro: int
    accumulation: int


def derive_batch(global_size: int | None, cluster: Cluster) -> Batch:
    """Split a global batch over a cluster, with the largest micro batch that divides it.

    Args:
        global_size: Rows per optimizer step; default: about 96, a multiple of the GPUs.
        cluster: Where it is trained.

    Raises:
        InputError: The GPUs do not divide the global batch.
    """
    world = cluster.world_size
    if global_size is None:
        global_size = 16 if cluster.on_cpu else world * max(1, _DEFAULT_ROWS // world)
    if global_size % world:
        below = global_size // world * world
        raise InputError(
            f"a global batch of {global_size} cannot be divided over {world} GPUs",
            where="key 'global_batch_size'",
            fix=f"use {below + world}" + (f" or {below}" if below else ""),
        )
    per_gpu = global_size // world
    micro = max(m for m in range(1, min(per_gpu, cluster.max_micro_batch) + 1) if per_gpu % m == 0)
    return Batch(global_size=global_size, micro=micro, accumulation=per_gpu // micro)
