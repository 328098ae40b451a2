"""What an estimate starts from: plain numbers, with no engine behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from multitask.cluster import adalora_start_rank
from multitask.errors import InputError
from multitask.estimate.assumptions import NF4_BITS, PACKING_FILL, PADDING_FACTOR
from multitask.models.shape import (
    ALL_LINEAR,
    Linear,
    ModelShape,
    adalora_parameters,
    dora_parameters,
    lora_parameters,
)

Precision = Literal["auto", "bf16", "master", "mixed", "fp32"]
"""How the parameters that learn are held.

- ``bf16``: weights, gradients and optimizer states in bf16, as published figures have it.
- ``master``: float32 weights that are updated, and bf16 ones in use: layer by layer under FSDP2,
  all of them with DeepSpeed.
- ``mixed``: float32 weights and gradients, and the bf16 copies that PyTorch's autocast makes.
- ``fp32``: all in float32.
- ``auto``: what a run does with the sharding at hand.
"""


class StateBytes(NamedTuple):
    """Bytes per parameter that learns.

    Attributes:
        weights: The parameters themselves.
        gradients: Of them.
        optimizer: Its states, and the float32 weights where it holds them.
        copies: Of the weights in bf16, made for a forward pass and never saved.
    """

    weights: float
    gradients: float
    optimizer: float
    copies: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.copies


@dataclass(frozen=True)
class Training:
    """A fine-tuning method on a model.

    Attributes:
        trainable: Parameters that learn.
        adapted: The linear layers that have an adapter.
        frozen_base: Whether the base's own weights stay as they are.
        base_bits: Bits per weight of the linear layers: 32, 16, 8 or 4.
        optimizer: transformers' name; every one with ``8bit`` in it holds its states in bytes.
        precision: How the parameters that learn are held.
    """

    trainable: int
    adapted: tuple[Linear, ...] = ()
    frozen_base: bool = False
    base_bits: int = 16
    optimizer: str = "adamw_torch_fused"
    precision: Precision = "auto"

    @property
    def base_bytes(self) -> float:
        """Bytes per weight of the linear layers."""
        return NF4_BITS / 8 if self.base_bits == 4 else self.base_bits / 8

    def state_bytes(self, sharding: str) -> StateBytes:
        """Bytes per parameter that learns, before sharding.

        What learns is float32: peft makes adapters so, and our plugin raises all else
        (:mod:`multitask.callbacks.trainer`); DeepSpeed holds bf16 weights and a float32 copy.

        Source: ZeRO (Rajbhandari et al. 2020), section 3.1, for 2 + 2 + 12; the memory anatomy in
        transformers' documentation for 6 + 4 + 8.
        """
        precision = self.held(sharding)
        if precision == "bf16":
            return StateBytes(2, 2, self._moments(2))
        if precision == "mixed":
            return StateBytes(4, 4, self._moments(4), copies=2)
        if precision == "master" and sharding.startswith("zero"):
            return StateBytes(2, 2, 4 + self._moments(4))
        return StateBytes(4, 4, self._moments(4))

    def held(self, sharding: str) -> Precision:
        """How the parameters that learn are held with a sharding; never ``auto``."""
        if self.precision != "auto":
            return self.precision
        if self.base_bits == 32 or (self.frozen_base and not sharding.startswith("zero")):
            return "fp32"
        return "mixed" if sharding in ("none", "ddp") else "master"

    def _moments(self, width: int) -> float:
        if "8bit" in self.optimizer:
            width = 1
        if "adafactor" in self.optimizer:
            return 0.01  # a row and a column of second moments per matrix
        return (
            width if any(name in self.optimizer for name in ("lion", "sgd", "muon")) else 2 * width
        )


def full(shape: ModelShape, **changes: Any) -> Training:
    """Full fine-tuning of a model."""
    return Training(trainable=shape.trainable_parameters, **changes)


def lora(
    shape: ModelShape, rank: int, targets: tuple[str, ...] = ALL_LINEAR, **changes: Any
) -> Training:
    """LoRA of a rank on a model's linear layers."""
    adapted = shape.targets(targets)
    return Training(lora_parameters(adapted, rank), adapted, frozen_base=True, **changes)


def training_of(
    shape: ModelShape,
    peft: str | None,
    *,
    rank: int = 8,
    targets: tuple[str, ...] = ALL_LINEAR,
    dora: bool = False,
    **holding: Any,
) -> Training:
    """What a method trains of a model.

    Args:
        shape: The model's.
        peft: What learns beside a frozen base, as peft names it; None: every weight learns.
        rank: Of the adapter; AdaLoRA's on average in the end.
        targets: Names of the layers that are adapted.
        dora: Whether the adapter learns a magnitude of each output feature too.
        holding: How weights and optimizer states are held; fields of :class:`Training`.

    Raises:
        InputError: A target is not one of the model's layers, or the method's size is not known.
    """
    if peft is None:
        return full(shape, **holding)
    adapted = shape.targets(targets)
    if peft == "adalora":
        trainable = adalora_parameters(adapted, adalora_start_rank(rank))
    elif peft == "lora":
        trainable = (dora_parameters if dora else lora_parameters)(adapted, rank)
    else:
        raise InputError(f"the size of the method {peft!r} is not known", where="key 'peft'")
    return Training(trainable, adapted, True, **holding)


SHARDINGS = ("none", "ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3")


@dataclass(frozen=True)
class Spread:
    """How the state is spread over GPUs.

    Attributes:
        sharding: ``none``, ``ddp``, ``fsdp``, ``hsdp``, ``zero1``, ``zero2`` or ``zero3``.
        shard: GPUs that share one copy of the state.
        replicate: Copies of it.
        cpu_offload: Whether what is sharded rests in main memory.
        sync_each_batch: Whether FSDP and DDP reduce gradients after every pass, instead of keeping
            whole ones on every GPU until the step (accelerate's key; DeepSpeed always does).
    """

    sharding: str = "none"
    shard: int = 1
    replicate: int = 1
    cpu_offload: bool = False
    sync_each_batch: bool = False

    def __post_init__(self) -> None:
        known = ("none", "ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3")
        if self.sharding not in known:
            raise InputError(
                f"unknown sharding {self.sharding!r}", fix=f"one of {', '.join(known)}"
            )

    @property
    def world_size(self) -> int:
        """GPUs in all."""
        return self.shard * self.replicate

    @property
    def shards_weights(self) -> bool:
        """Whether each GPU holds a part of the weights."""
        return self.sharding in ("fsdp", "hsdp", "zero3")

    @property
    def shards_gradients(self) -> bool:
        """Whether each GPU holds a part of the gradients."""
        return self.shards_weights or self.sharding == "zero2"

    @property
    def shards_optimizer(self) -> bool:
        """Whether each GPU holds a part of the optimizer's state."""
        return self.shards_gradients or self.sharding == "zero1"


@dataclass(frozen=True)
class Machines:
    """The GPUs and what connects them.

    Attributes:
        gpus_per_node: GPUs in a node; 0 means a CPU.
        nodes: Machines.
        memory_gb: Memory of a GPU; None: not checked.
        bf16_tflops: Peak of a GPU in 10^12 dense bfloat16 operations per second.
        intra_node_gb_s: Bandwidth between GPUs of a node, GB/s per GPU and direction.
        inter_node_gb_s: Bandwidth between nodes, GB/s per node and direction.
        host_memory_gb: Main memory of a node; None: not checked.
        usd_per_hour: Price of all of it together; None where nobody bills.
        name: For tables.
    """

    gpus_per_node: int = 1
    nodes: int = 1
    memory_gb: float | None = 80.0
    bf16_tflops: float | None = 312.0
    intra_node_gb_s: float | None = 300.0
    inter_node_gb_s: float | None = 50.0
    host_memory_gb: float | None = None
    usd_per_hour: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Workload:
    """What is trained on, and how it is cut.

    Attributes:
        rows: Training rows of an epoch.
        mean_tokens: Tokens of a row, on average.
        epochs: Passes over them.
        sequence_len: Longest sequence; packed ones are all this long.
        micro_batch: Sequences per GPU and forward pass.
        accumulation: Forward passes per optimizer step.
        packing: Whether several rows share a sequence.
        checkpointing: Whether activations are computed again in the backward pass.
        flash: Whether attention is computed without its matrix (flash attention or sdpa).
        fused_loss: Whether the loss is computed without all logits (Liger, cut cross entropy).
    """

    rows: int
    mean_tokens: float
    epochs: float = 1.0
    sequence_len: int = 2048
    micro_batch: int = 1
    accumulation: int = 1
    packing: bool = True
    checkpointing: bool = True
    flash: bool = True
    fused_loss: bool = False

    @property
    def fed_tokens(self) -> float:
        """Tokens of a sequence as the GPU sees it, padding included."""
        if self.packing:
            return float(self.sequence_len)
        return min(float(self.sequence_len), self.mean_tokens * PADDING_FACTOR)

    @property
    def sequences(self) -> int:
        """Sequences of an epoch."""
        if not self.packing:
            return self.rows
        return max(1, math.ceil(self.rows * self.mean_tokens / (self.sequence_len * PACKING_FILL)))

    def global_batch(self, world_size: int) -> int:
        """Sequences of an optimizer step."""
        return world_size * self.micro_batch * self.accumulation

    def steps(self, world_size: int) -> int:
        """Optimizer steps of the whole run."""
        return max(1, math.ceil(self.sequences / self.global_batch(world_size) * self.epochs))
