"""Batch arithmetic: global batch = GPUs x micro batch x accumulation steps."""

from __future__ import annotations

from dataclasses import dataclass

from multitask.cluster.cluster import Cluster
from multitask.errors import InputError

# Rows per optimizer step when the spec does not say: enough for a steady gradient over many
# tasks, few enough for some hundred steps on small ones.
DEFAULT_ROWS = 96
_DEFAULT_ROWS_CPU = 16
_MOST_PER_GPU = 8
_MOST_ON_CPU = 64


@dataclass(frozen=True)
class Batch:
    """How an optimizer step's sequences are spread.

    Attributes:
        global_size: Sequences per optimizer step over all GPUs; packed, each holds several rows.
        micro: Sequences per GPU and forward pass.
        accumulation: Forward passes per optimizer step.
    """

    global_size: int
    micro: int
    accumulation: int


def derive_batch(
    global_size: int | None,
    cluster: Cluster,
    *,
    rows_per_sequence: float = 1.0,
    most: int | None = None,
) -> Batch:
    """Split a global batch over a cluster, with the largest micro batch that divides it.

    Args:
        global_size: Sequences per optimizer step; default: a multiple of the GPUs that holds
            about 96 rows, or one sequence for each GPU where that is more.
        cluster: Where it is trained.
        rows_per_sequence: Rows that a packed sequence holds on average.
        most: Largest micro batch that fits in memory; default 8 on a GPU, 64 on a CPU.

    Raises:
        InputError: The GPUs do not divide the global batch.
    """
    world = cluster.world_size
    if global_size is None:
        rows = _DEFAULT_ROWS_CPU if cluster.on_cpu else DEFAULT_ROWS
        global_size = world * max(1, round(rows / rows_per_sequence / world))
    if global_size % world:
        below = global_size // world * world
        raise InputError(
            f"a global batch of {global_size} cannot be divided over {world} GPUs",
            where="key 'global_batch_size'",
            fix=f"use {below + world}" + (f" or {below}" if below else ""),
        )
    per_gpu = global_size // world
    limit = _MOST_ON_CPU if cluster.on_cpu else _MOST_PER_GPU
    limit = limit if most is None else max(1, min(limit, most))
    micro = max(m for m in range(1, min(per_gpu, limit) + 1) if per_gpu % m == 0)
    return Batch(global_size=global_size, micro=micro, accumulation=per_gpu // micro)
