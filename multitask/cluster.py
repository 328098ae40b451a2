"""The machines and the method of a run: GPUs, batch arithmetic, sharding, which weights learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from multitask.errors import InputError, did_you_mean
from multitask.files import read_mapping
from multitask.resources import load_config
from multitask.task_spec import StrictModel

_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]
_Number = Annotated[int | float, Field(gt=0)]


class Price(StrictModel):
    """What a GPU costs.

    Attributes:
        usd_per_gpu_hour: US dollars per GPU and hour.
        date: When that was the price.
        source: Who says so.
    """

    usd_per_gpu_hour: Annotated[float, Field(ge=0)]
    date: str
    source: str


class Cluster(StrictModel):
    """Nodes with GPUs of one kind, as in ``configs/clusters`` or a file of the user's.

    Attributes:
        name: The file's name.
        description: One line for people.
        nodes: Machines.
        gpus_per_node: GPUs in each; 0 means training on the CPU.
        gpu: The GPU's name.
        memory_gb: Memory of one GPU in GB.
        compute_capability: As CUDA names it, ``sm_80`` for A100.
        bf16_tflops: Peak of one GPU in 10^12 dense bfloat16 operations per second.
        intra_node_gb_s: Bandwidth between GPUs of a node, GB/s per GPU and direction.
        inter_node_gb_s: Bandwidth between nodes, GB/s per node and direction.
        host_memory_gb: Main memory of a node in GB, for CPU offload.
        price: What it costs; None where nobody bills.
    """

    name: str
    description: str
    nodes: _Count = 1
    gpus_per_node: Annotated[int, Field(ge=0)]
    gpu: str | None = None
    memory_gb: _Positive | None = None
    compute_capability: Annotated[str, Field(pattern=r"^sm_\d+$")] | None = None
    bf16_tflops: _Positive | None = None
    intra_node_gb_s: _Positive | None = None
    inter_node_gb_s: _Positive | None = None
    host_memory_gb: _Positive | None = None
    price: Price | None = None

    @field_validator("name", "description", "gpu")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        """They stand in comments of scripts, where a second line would be a command."""
        if text is not None and not text.isprintable():
            raise ValueError("holds a line break or control character; write it on one line")
        return text

    @model_validator(mode="after")
    def _whole(self) -> Cluster:
        if self.gpus_per_node == 0:
            if self.nodes > 1:
                raise ValueError("training on CPUs uses one node")
            return self
        needed = ["gpu", "memory_gb", "compute_capability", "bf16_tflops"]
        if self.gpus_per_node > 1:
            needed.append("intra_node_gb_s")
        if self.nodes > 1:
            needed.append("inter_node_gb_s")
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            raise ValueError(f"a cluster with GPUs like these needs {', '.join(missing)}")
        return self

    @property
    def on_cpu(self) -> bool:
        """Whether the run trains without GPUs."""
        return self.gpus_per_node == 0

    @property
    def world_size(self) -> int:
        """Processes that train together: one per GPU, one on a CPU."""
        return max(1, self.nodes * self.gpus_per_node)

    @property
    def usd_per_hour(self) -> float | None:
        """Price of all GPUs together for an hour."""
        return None if self.price is None else self.price.usd_per_gpu_hour * self.world_size


def load_cluster(name: str) -> Cluster:
    """Read a shipped cluster, or a file of the user's.

    Args:
        name: A file of ``configs/clusters`` without its suffix, or the path of a YAML file.

    Raises:
        InputError: There is none, or a key in it is wrong.
    """
    if not name.endswith((".yaml", ".yml")):
        return Cluster(name=name, **load_config("clusters", name, key="cluster"))
    path = Path(name)
    content = read_mapping(path, what="a cluster", fix="see configs/clusters for examples")
    try:
        return Cluster.model_validate({"name": path.stem} | content)
    except ValidationError as error:
        raise _explain(error, path) from None


def _explain(error: ValidationError, path: Path) -> InputError:
    issue = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")[0]
    key = ".".join(str(part) for part in issue["loc"])
    if issue["type"] == "extra_forbidden":
        known = Price.model_fields if key.startswith("price.") else Cluster.model_fields
        hint = did_you_mean(key.rsplit(".", 1)[-1], list(known))
        return InputError(f"unknown key '{key}'", where=path, fix=hint)
    message = issue["msg"].removeprefix("Value error, ")
    return InputError(
        f"{message[0].lower()}{message[1:]}", where=f"{path}: key '{key}'" if key else path
    )


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


# AdaLoRA's ranks start half as high again as they end on average, as in its paper (12 to 8).
_ADALORA_START = 1.5


def adalora_start_rank(mean_rank: int) -> int:
    """The rank that AdaLoRA starts with, from the mean rank that it ends with."""
    return round(_ADALORA_START * mean_rank)


class Method(StrictModel):
    """A file of ``configs/methods``: what learns, whatever engine trains it.

    Attributes:
        name: The file's name.
        description: One line for people.
        learning_rate: Peak learning rate, unless the spec sets one.
        shardings: The shardings that it works with; None for all.
        peft: What learns beside a frozen base, as peft names it (``lora``, ``ia3``,
            ``prompt_tuning``); None: every weight learns.
        bits: Bits per weight of the frozen base while training.
        rank: Rank of the adapter, AdaLoRA's on average in the end.
        alpha: The adapter is scaled by ``alpha / rank``.
        dropout: Share of an adapter's input that is dropped.
        targets: Names of the layers that are adapted, or every linear one.
        lr_ratio: How many times as fast LoRA's second matrix learns (LoRA+).
        options: Further arguments of peft's configuration for it, under peft's names.
    """

    name: str
    description: str
    learning_rate: Annotated[float, Field(gt=0)]
    shardings: tuple[str, ...] | None = None
    peft: str | None = None
    bits: Literal[4, 8, 16] = 16
    rank: _Count | None = None
    alpha: _Number | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    lr_ratio: _Number | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_adapter(self) -> bool:
        """Whether few parameters learn beside a frozen base."""
        return self.peft is not None


def load_method(name: str) -> Method:
    """Read a shipped method.

    Raises:
        InputError: There is none of that name.
    """
    return Method(name=name, **load_config("methods", name, key="method"))
