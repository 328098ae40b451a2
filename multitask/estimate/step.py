"""An optimizer step: the memory that it takes of a GPU, and its time."""

from __future__ import annotations

from dataclasses import dataclass

from multitask.errors import InputError
from multitask.estimate.assumptions import (
    ADAPTER_FREE_LAUNCH,
    BITS_SLOWDOWN,
    CPU_ADAM_PARAMETERS_PER_SECOND,
    CPU_TFLOPS,
    CUDA_CONTEXT_GB,
    DEEPSPEED_BUCKETS_GB,
    FRAGMENTATION,
    FUSED_LOSS_CHUNKS,
    GB,
    GROUP_SECONDS,
    LAUNCH_SECONDS,
    LINK_EFFICIENCY,
    LOGITS_BYTES,
    LOGITS_HELD,
    NCCL_GB,
    OVERLAP,
    PCIE_GB_S,
    UTILISATION,
)
from multitask.estimate.inputs import Machines, Spread, Training, Workload
from multitask.models.shape import ModelShape


@dataclass(frozen=True)
class Memory:
    """Peak memory of one GPU in GB (10^9 bytes).

    Attributes:
        weights: Parameters, frozen ones and autocast's copies included.
        gradients: Of the parameters that learn.
        optimizer: Adam's moments, and the float32 copy where the optimizer holds it.
        activations: Kept for the backward pass.
        logits: Logits, their loss and their gradient.
        buffers: Gathered layers, gradient buckets.
        overhead: CUDA, NCCL, and what the allocator cannot use.
        host: Main memory in GB, per GPU, that offloading takes.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float
    overhead: float
    host: float = 0.0

    @property
    def state(self) -> float:
        """Weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        """All that is on the GPU."""
        return self.state + self.activations + self.logits + self.buffers + self.overhead


def estimate_memory(
    shape: ModelShape, training: Training, spread: Spread, workload: Workload
) -> Memory:
    """Estimate the peak memory of one GPU.

    Args:
        shape: The model.
        training: What learns, and how it is held.
        spread: How the state is divided.
        workload: Micro batch, length, and what saves memory.
    """
    bytes_ = training.state_bytes(spread.sharding)
    frozen = frozen_bytes(shape, training)
    weights = training.trainable * (bytes_.weights + bytes_.copies) + frozen
    gradients = training.trainable * bytes_.gradients
    optimizer = training.trainable * bytes_.optimizer
    weights /= spread.shard if spread.shards_weights else 1
    gradients /= spread.shard if spread.shards_gradients else 1
    optimizer /= spread.shard if spread.shards_optimizer else 1
    host = 0.0
    if spread.cpu_offload:
        host = optimizer + gradients
        optimizer = gradients = 0.0
        if spread.shards_weights:
            host, weights = host + weights, 0.0
    tokens = workload.micro_batch * workload.sequence_len
    autocast = training.held(spread.sharding) == "mixed"
    activations = activation_bytes(shape, training, workload, autocast=autocast)
    elements = float(tokens * shape.vocab_size)
    if workload.fused_loss:
        elements = max(elements / FUSED_LOSS_CHUNKS, min(elements, LOGITS_HELD))
    logits = elements * LOGITS_BYTES
    buffers = _buffer_bytes(shape, training, spread, workload)
    overhead = CUDA_CONTEXT_GB * GB + (NCCL_GB * GB if spread.world_size > 1 else 0.0)
    overhead += FRAGMENTATION * (activations + logits + buffers)
    parts = (weights, gradients, optimizer, activations, logits, buffers, overhead, host)
    return Memory(*(part / GB for part in parts))


def frozen_bytes(shape: ModelShape, training: Training) -> float:
    """Bytes of all parameters that do not learn, before sharding.

    Quantisation shrinks the linear layers alone; embedding, head and norms stay in bf16.
    """
    if not training.frozen_base:
        return shape.frozen * 2.0
    width = 4.0 if training.base_bits == 32 else 2.0
    rest = shape.parameters - shape.linear_parameters
    return shape.linear_parameters * training.base_bytes + rest * width


def activation_bytes(
    shape: ModelShape, training: Training, workload: Workload, *, autocast: bool = False
) -> float:
    """Bytes of activations at the peak: all layers', or one layer's and every layer's input.

    Source: Korthikanti et al. 2022 (arXiv 2205.05198), section 4.1: the inputs of every matrix
    product, of the norms and of the activation function are kept; here with the model's own
    widths (grouped heads, gated MLP), without dropout, and with LoRA's copy of its input. Under
    autocast matrix products are in bf16, but what they are added to stays in float32.
    """
    tokens = workload.micro_batch * workload.sequence_len
    width = 4 if training.base_bits == 32 else 2
    stream = 4 if autocast else width
    per_token = float(layer_activations(shape) * width)
    per_token += 2 * shape.hidden_size * (stream - width)  # the inputs of the two norms
    if training.adapted:
        # Inputs after LoRA's dropout, which is not the base's input.
        inputs = sum(one.inputs * one.count for one in training.adapted) / shape.layers
        per_token += inputs * width
    if not workload.flash:
        # Softmax in float32 and its copy in the compute width, for every head and position.
        per_token += shape.heads * workload.sequence_len * (4 + width)
    if workload.checkpointing:
        return tokens * (shape.layers * shape.hidden_size * stream + per_token)
    return tokens * shape.layers * per_token


def layer_activations(shape: ModelShape) -> int:
    """Numbers kept per token in one decoder layer, with attention that keeps no matrix."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries = shape.heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    attention = hidden + 2 * queries + 2 * keys  # input, q, output (that o_proj reads too), k, v
    mlp = hidden + (4 if shape.gated else 2) * inner  # input; gate, up, act(gate), product
    return 2 * hidden + attention + mlp  # and the inputs of the two norms


def _buffer_bytes(
    shape: ModelShape, training: Training, spread: Spread, workload: Workload
) -> float:
    """Bytes that sharding takes besides the state: whole layers gathered for use, buckets."""
    if spread.world_size == 1:
        return 0.0
    learns = 0.0 if training.frozen_base else 1.0
    width = 4.0 if training.base_bits == 32 else 2.0
    if spread.shards_weights:
        # The layer in use and the next; what is outside of layers stays gathered; the gradients
        # of one layer before they are reduced, and of the head.
        linear = training.base_bytes if training.frozen_base else width
        outside = shape.embeddings + shape.head
        gathered = 2 * shape.layer_parameters * linear + outside * width
        if spread.sharding != "zero3" and workload.accumulation > 1 and not spread.sync_each_batch:
            # accelerate's no_sync: FSDP2 keeps whole gradients until the last pass of the step.
            return gathered + training.trainable * width
        return gathered + learns * (shape.layer_parameters * 4 + outside * width)
    if spread.sharding == "ddp":
        # Buckets hold a copy of all gradients.
        return training.trainable * training.state_bytes("ddp").gradients
    return DEEPSPEED_BUCKETS_GB * GB if learns else training.trainable * 4.0


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
