"""A cluster's ``axolotl.yaml`` for CPU processes: only what a CPU forces, each change listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from multitask.cluster import Cluster
from multitask.runners.axolotl.file import LIGER_PLUGIN
from multitask.runners.axolotl.plan import LORA_KERNELS

SAVE_STEPS = 2
"""Optimizer steps between the checkpoints of a rehearsal."""

_LONGEST = 256  # tokens of a sequence
_SERVICES = (
    "wandb_project", "wandb_name", "wandb_entity", "use_wandb", "hub_model_id",
    "use_mlflow", "mlflow_tracking_uri", "mlflow_experiment_name", "mlflow_run_name",
    "use_trackio", "trackio_project_name", "trackio_run_name", "trackio_space_id", "use_comet",
)  # fmt: skip

_Forced = Iterator[tuple[str, Any, str, str]]


@dataclass(frozen=True)
class Change:
    """A key that the rehearsal has otherwise than the cluster; None where it has none.

    ``unproven`` is what the rehearsal therefore cannot show.
    """

    key: str
    was: Any
    now: Any
    why: str
    unproven: str = ""

    def record(self) -> dict[str, Any]:
        """What rehearsal.json keeps."""
        names = ("key", "cluster", "rehearsal", "why", "not_proven")
        return dict(zip(names, vars(self).values(), strict=True))


def adapted(
    config: Mapping[str, Any], *, model: str, steps: int, attention: str = "sdpa"
) -> tuple[dict[str, Any], list[Change]]:
    """The rehearsal's ``axolotl.yaml``, and what it changes.

    Args:
        config: The content of the run's.
        model: The small model's folder, relative to the rehearsal's.
        steps: Optimizer steps.
        attention: What takes the place of flash attention.
    """
    small, changes = dict(config), []
    for key, now, why, unproven in _forced(config, model, steps, attention):
        if (was := small.get(key)) == now:
            continue
        if now is None:
            del small[key]
        else:
            small[key] = now
        changes.append(Change(key, was, now, why, unproven))
    return small, changes


def _forced(config: Mapping[str, Any], model: str, steps: int, attention: str) -> _Forced:
    yield "base_model", model, "the model is shrunk", "the model's own weights, memory, speed"
    yield from _device(config, attention)
    yield from _kernels(config)
    short = "a rehearsal is short"
    yield "max_steps", steps, short, "the end of an epoch"
    yield "save_steps", SAVE_STEPS, short, ""
    yield "logging_steps", 1, "losses are compared step by step", ""
    length = min(int(config.get("sequence_len", _LONGEST)), _LONGEST)
    yield "sequence_len", length, "many ranks share one memory", "sequences of full length"
    for key in _SERVICES:
        yield key, None, "nothing leaves this machine", "tracking and uploads"


def _device(config: Mapping[str, Any], attention: str) -> _Forced:
    cpu = "there is no GPU"
    optimizer, sharding = str(config.get("optimizer", "")), config.get("fsdp_config") or {}
    if config.get("deepspeed"):
        yield "bf16", False, "DeepSpeed's bfloat16 needs its kernels", "bfloat16's rounding"
    yield "fp16", False, cpu, ""
    yield "tf32", False, cpu, ""
    if "fused" in optimizer or "8bit" in optimizer:
        yield "optimizer", "adamw_torch", "its kernels run on CUDA", "the fused optimizer"
    if "flash" in str(config.get("attn_implementation", "")):
        yield "attn_implementation", attention, "flash attention runs on CUDA", "flash attention"
    yield "dataloader_pin_memory", False, cpu, ""
    if sharding.get("offload_params"):
        here = "all memory is the CPU's, and torch offloads from an accelerator alone"
        yield "fsdp_config", {**sharding, "offload_params": False}, here, "offloading"
    if config.get("dataloader_num_workers"):
        yield "dataloader_num_workers", 0, "many ranks share few cores", ""
        yield "dataloader_prefetch_factor", None, "it needs workers", ""


def _kernels(config: Mapping[str, Any]) -> _Forced:
    plugins, adapter = config.get("plugins") or [], config.get("adapter")
    if LIGER_PLUGIN in plugins:
        why = "Liger's kernels run on CUDA"
        kept = [plugin for plugin in plugins if plugin != LIGER_PLUGIN]
        yield "plugins", kept, why, "Liger's fused kernels"
        yield from ((key, None, why, "") for key in config if key.startswith("liger_"))
    if adapter:
        # Those of attention's projections are plain matrix products, and are rehearsed.
        automatic = (
            adapter in ("lora", "qlora")
            and all(config.get(key) is None for key in LORA_KERNELS)
            and not config.get("load_in_8bit")
            and not config.get("trust_remote_code")
        )
        for key in LORA_KERNELS:
            if key in ("lora_qkv_kernel", "lora_o_kernel"):
                why = "Axolotl turns it on by itself, unless another one is off"
                yield key, bool(config.get(key) or automatic), why, ""
            else:
                yield key, False, "the kernel runs on CUDA", "fused LoRA kernels of the MLP"
    yield "torch_compile", None, "compiling would take longer than training", "torch.compile"
    for key in ("load_in_4bit", "load_in_8bit"):
        if config.get(key):
            yield key, None, "bitsandbytes' training kernels run on CUDA", "quantised weights"
            if adapter == "qlora":
                yield "adapter", "lora", "qlora needs 4-bit weights", ""


def adapted_deepspeed(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[Change]]:
    """The rehearsal's ``deepspeed.json``, and what it changes in the run's."""
    zero = dict(content.get("zero_optimization") or {})
    why = "all memory is a CPU's here, and building DeepSpeed's CPU Adam takes many minutes"
    changes = [
        Change(f"deepspeed: {key}", zero.pop(key), None, why, "offloading, DeepSpeed's CPU Adam")
        for key in ("offload_optimizer", "offload_param")
        if key in zero
    ]
    return {**content, "zero_optimization": zero} if changes else dict(content), changes


def fit_ranks(config: dict[str, Any], cluster: Cluster, nodes: int, procs: int) -> list[Change]:
    """Fit the mesh of a rehearsal's configuration to other ranks than the cluster's, in place."""
    if (nodes, procs) == (cluster.nodes, max(1, cluster.gpus_per_node)):
        return []
    now = f"{nodes} x {procs}"
    why, was = f"{now} ranks were asked for", f"{cluster.nodes} x {cluster.gpus_per_node}"
    changes = [Change("ranks", was, now, why, "the cluster's number of ranks")]
    if "dp_shard_size" in config:
        mesh = {key: config.pop(key) for key in ("dp_shard_size", "dp_replicate_size")}
        if nodes > 1 and procs > 1:
            config |= {"dp_shard_size": procs, "dp_replicate_size": nodes}
        changes += [Change(key, value, config.get(key), why) for key, value in mesh.items()]
    if nodes * procs == 1:
        found = [key for key in ("fsdp_version", "fsdp_config") if key in config]
        changes += [Change(key, config.pop(key), None, why, "sharding") for key in found]
    return changes
