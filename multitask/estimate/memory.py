"""Memory per GPU, split into what it holds."""

from __future__ import annotations

from dataclasses import dataclass

from multitask.estimate.assumptions import (
    CUDA_CONTEXT_GB,
    DEEPSPEED_BUCKETS_GB,
    FRAGMENTATION,
    FUSED_LOSS_CHUNKS,
    GB,
    LOGITS_BYTES,
    LOGITS_HELD,
    NCCL_GB,
)
from multitask.estimate.inputs import Spread, Training, Workload
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
