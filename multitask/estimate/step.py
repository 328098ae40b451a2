"""Time of an optimizer step: arithmetic, kernel launches, communication, offloading."""

from __future__ import annotations

from dataclasses import dataclass

from multitask.errors import InputError
from multitask.estimate.assumptions import (
    ADAPTER_FREE_LAUNCH,
    BITS_SLOWDOWN,
    CPU_ADAM_PARAMETERS_PER_SECOND,
    CPU_TFLOPS,
    GB,
    GROUP_SECONDS,
    LAUNCH_SECONDS,
    LINK_EFFICIENCY,
    OVERLAP,
    PCIE_GB_S,
    UTILISATION,
)
from multitask.estimate.inputs import Machines, Spread, Training, Workload
from multitask.estimate.memory import frozen_bytes
from multitask.models.shape import ModelShape


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step.

    Attributes:
        compute: Matrix products and attention.
        launch: Kernel launches and small kernels, and those of many small collectives.
        communication: Collectives, whether hidden or not.
        offload: Transfers to main memory and the update there.
        total: All, with the overlap of compute and communication taken off.
    """

    compute: float
    launch: float
    communication: float
    offload: float
    total: float


def step_time(
    shape: ModelShape,
    training: Training,
    spread: Spread,
    machines: Machines,
    workload: Workload,
) -> StepTime:
    """Estimate the time of one optimizer step.

    Raises:
        InputError: The GPU's peak, or the bandwidth of a link that is used, is not known.
    """
    peak = (machines.bf16_tflops if machines.gpus_per_node else CPU_TFLOPS) or 0.0
    if not peak:
        raise InputError("the GPU's peak is not known", where="key 'bf16_tflops' of the cluster")
    tokens = workload.micro_batch * workload.fed_tokens
    rate = peak * 1e12 * UTILISATION / BITS_SLOWDOWN[training.base_bits]
    compute = tokens * flops_per_token(shape, training, workload) / rate
    passes = 4 if workload.checkpointing else 3
    launch = shape.layers * passes * LAUNCH_SECONDS if machines.gpus_per_node else 0.0
    launch *= 1.0 if training.adapted else ADAPTER_FREE_LAUNCH
    launch += fsdp_groups(shape, training, spread) * _collectives(spread) * GROUP_SECONDS
    per_pass, per_step = _communication(shape, training, spread, machines)
    offload = _offload(shape, training, spread, machines, workload)
    busy = compute + launch
    one_pass = max(busy, per_pass) + (1 - OVERLAP) * min(busy, per_pass)
    n = workload.accumulation
    return StepTime(
        compute=n * compute,
        launch=n * launch,
        communication=n * per_pass + per_step,
        offload=offload,
        total=n * one_pass + per_step + offload,
    )


def flops_per_token(shape: ModelShape, training: Training, workload: Workload) -> float:
    """Operations on one token: forward, backward, and forward again with checkpointing.

    A matrix product of N weights costs 2N forward, 2N for the gradient of its input and 2N for
    that of its weights, which frozen weights do without: 6N in full fine-tuning and 4N with
    adapters (Kaplan et al. 2020, section 2.1). The output head counts whether it is tied or not.
    Attention costs 2 * 2 * span * width forward, half of it masked, and 2.5 times that backward
    (Dao 2023, flash attention 2); packed rows see themselves alone.
    """
    weights = shape.linear_parameters + shape.vocab_size * shape.hidden_size
    again = 1 if workload.checkpointing else 0
    backward = 1 if training.frozen_base else 2
    matmul = 2 * weights * (1 + backward + again)
    if training.adapted:
        matmul += 2 * training.trainable * (3 + again)
    span = min(workload.mean_tokens, workload.sequence_len)
    if not workload.packing:
        span = workload.fed_tokens
    attention = 2 * span * shape.heads * shape.head_dim * shape.layers
    if not workload.flash:
        attention *= 2  # the masked half is computed too
    return matmul + attention * (1 + 2.5 + again)


def fsdp_groups(shape: ModelShape, training: Training, spread: Spread) -> int:
    """Groups of parameters that FSDP2 gathers and reduces one by one; 0 without FSDP.

    One a layer and one for the rest; and each of an adapter's two matrices is a group of its own
    (``axolotl/monkeypatch/accelerate/fsdp2.py``, ``_process_lora_module_for_fsdp``).
    """
    if spread.sharding not in ("fsdp", "hsdp"):
        return 0
    return shape.layers + 1 + 2 * sum(linear.count for linear in training.adapted)


def gathered_gb(shape: ModelShape, training: Training, spread: Spread, workload: Workload) -> float:
    """Weights in GB that an optimizer step brings to each GPU: forward and backward, each pass."""
    if not spread.shards_weights:
        return 0.0
    return 2 * workload.accumulation * _gathered(shape, training) / GB


def _gathered(shape: ModelShape, training: Training) -> float:
    return frozen_bytes(shape, training) + (0.0 if training.frozen_base else training.trainable * 2)


def _collectives(spread: Spread) -> int:
    """Of a group in a pass: gathered twice, reduced, and summed between the copies."""
    return 4 if spread.replicate > 1 else 3


def _communication(
    shape: ModelShape, training: Training, spread: Spread, machines: Machines
) -> tuple[float, float]:
    """Seconds of collectives per forward and backward pass, and per optimizer step."""
    if spread.world_size == 1:
        return 0.0, 0.0
    learns = training.trainable * 2.0  # sharded gradients travel in bf16
    if spread.sharding == "ddp":
        learns = training.trainable * training.state_bytes("ddp").gradients
    world = spread.world_size
    if not spread.shards_weights:
        # All-reduce, or reduce-scatter and all-gather: once out, once back.
        seconds = _seconds(2 * learns * (world - 1) / world, world, machines)
        every_pass = spread.sharding == "ddp" and spread.sync_each_batch
        return (seconds, 0.0) if every_pass else (0.0, seconds)
    base = _gathered(shape, training)
    share = (spread.shard - 1) / spread.shard
    # Weights are gathered for the forward and again for the backward pass.
    gather = _seconds(2 * base * share, spread.shard, machines)
    reduce = _seconds(learns * share, spread.shard, machines)
    if spread.replicate > 1:
        # All-reduce of each GPU's share between the copies.
        between = 2 * learns * (spread.replicate - 1) / spread.replicate
        reduce += _between_copies(between, spread, machines)
    if spread.sync_each_batch or spread.sharding == "zero3":
        return gather + reduce, 0.0
    return gather, reduce


def _seconds(volume: float, gpus: int, machines: Machines) -> float:
    """Time of a ring collective that sends ``volume`` bytes past every link of ``gpus`` GPUs."""
    slowest = 0.0
    if min(gpus, machines.gpus_per_node) > 1:
        slowest = volume / _rate(machines.intra_node_gb_s, "intra_node_gb_s")
    if gpus > machines.gpus_per_node:
        slowest = max(slowest, volume / _rate(machines.inter_node_gb_s, "inter_node_gb_s"))
    return slowest


def _between_copies(volume: float, spread: Spread, machines: Machines) -> float:
    """Time of rings side by side, one for each GPU of a copy, ``volume`` bytes together."""
    if spread.world_size <= machines.gpus_per_node:
        return volume / spread.shard / _rate(machines.intra_node_gb_s, "intra_node_gb_s")
    return volume / _rate(machines.inter_node_gb_s, "inter_node_gb_s")  # they share the node's link


def _rate(gb_s: float | None, key: str) -> float:
    """Bytes per second that a link really carries."""
    if gb_s is None:
        raise InputError(
            "a bandwidth that is used is not known", where=f"key '{key}' of the cluster"
        )
    return gb_s * LINK_EFFICIENCY * GB


def _offload(
    shape: ModelShape,
    training: Training,
    spread: Spread,
    machines: Machines,
    workload: Workload,
) -> float:
    if not spread.cpu_offload:
        return 0.0
    mine = training.trainable / (spread.shard if spread.shards_optimizer else 1)
    transfers = 2 * mine * 2.0  # gradients out, updated weights back, in bf16
    if spread.shards_weights:
        base = frozen_bytes(shape, training) + training.trainable * 2.0
        transfers += 2 * workload.accumulation * base / spread.shard
    on_node = mine * max(1, machines.gpus_per_node)
    return transfers / (PCIE_GB_S * GB) + on_node / CPU_ADAM_PARAMETERS_PER_SECOND
