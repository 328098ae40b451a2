"""A cluster's ``axolotl.yaml`` for CPU processes: only what a CPU forces, each change listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multitask.runners.axolotl.file import LIGER_PLUGIN
from multitask.runners.axolotl.plan import LORA_KERNELS


@dataclass(frozen=True)
class Change:
    """A key that the rehearsal has otherwise than the cluster.

    Attributes:
        key: Axolotl's key.
        was: The cluster's value; None where it had none.
        now: The rehearsal's value; None where the key is removed.
        why: What forces it.
        unproven: What the rehearsal therefore cannot show; empty for nothing.
    """

    key: str
    was: Any
    now: Any
    why: str
    unproven: str = ""

    def record(self) -> dict[str, Any]:
        """What rehearsal.json keeps."""
        return {
            "key": self.key,
            "cluster": self.was,
            "rehearsal": self.now,
            "why": self.why,
            "not_proven": self.unproven,
        }


@dataclass(frozen=True)
class Sizes:
    """How small the rehearsal is.

    Attributes:
        steps: Optimizer steps.
        save_steps: Steps between checkpoints.
        sequence_len: Longest sequence in tokens.
    """

    steps: int = 8
    save_steps: int = 2
    sequence_len: int = 256


def adapted(
    config: Mapping[str, Any], *, model: str, sizes: Sizes, attention: str = "sdpa"
) -> tuple[dict[str, Any], list[Change]]:
    """Change what a CPU forces.

    Args:
        config: The content of the run's ``axolotl.yaml``.
        model: The small model's folder, relative to the rehearsal's.
        sizes: How long and how small.
        attention: What takes the place of flash attention.

    Returns:
        The rehearsal's configuration, and what it changes.
    """
    edit = _Edit(dict(config))
    edit.set("base_model", model, "the model is shrunk", "the model's own weights, memory, speed")
    _device(edit, attention)
    _kernels(edit)
    _quantisation(edit)
    _length(edit, sizes)
    return edit.config, edit.changes


class _Edit:
    """A configuration being changed, and the changes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.changes: list[Change] = []

    def set(self, key: str, now: Any, why: str, unproven: str = "") -> None:
        was = self.config.get(key)
        if was == now and key in self.config:
            return
        if now is None:
            if key not in self.config:
                return
            del self.config[key]
        else:
            self.config[key] = now
        self.changes.append(Change(key, was, now, why, unproven))


def _device(edit: _Edit, attention: str) -> None:
    cpu = "there is no GPU"
    if edit.config.get("deepspeed"):
        edit.set("bf16", False, "DeepSpeed's bfloat16 needs its kernels", "bfloat16's rounding")
    edit.set("fp16", False, cpu)
    edit.set("tf32", False, cpu)
    if "fused" in str(edit.config.get("optimizer", "")) or "8bit" in str(
        edit.config.get("optimizer", "")
    ):
        edit.set("optimizer", "adamw_torch", "its kernels run on CUDA", "the fused optimizer")
    if "flash" in str(edit.config.get("attn_implementation", "")):
        why = "flash attention runs on CUDA"
        edit.set("attn_implementation", attention, why, "flash attention")
    edit.set("dataloader_pin_memory", False, cpu)
    sharding = edit.config.get("fsdp_config") or {}
    if sharding.get("offload_params"):
        here = "all memory is the CPU's, and torch offloads from an accelerator alone"
        edit.set("fsdp_config", {**sharding, "offload_params": False}, here, "offloading")
    if edit.config.get("dataloader_num_workers"):
        edit.set("dataloader_num_workers", 0, "many ranks share few cores")
        edit.set("dataloader_prefetch_factor", None, "it needs workers")


def _kernels(edit: _Edit) -> None:
    plugins = edit.config.get("plugins") or []
    kept = [plugin for plugin in plugins if plugin != LIGER_PLUGIN]
    if kept != plugins:
        edit.set("plugins", kept, "Liger's kernels run on CUDA", "Liger's fused kernels")
        for key in [key for key in edit.config if key.startswith("liger_")]:
            edit.set(key, None, "Liger's kernels run on CUDA")
    if edit.config.get("adapter"):
        _lora_kernels(edit)
    edit.set("torch_compile", None, "compiling would take longer than training", "torch.compile")


def _lora_kernels(edit: _Edit) -> None:
    """Keep those of attention's projections, which are plain matrix products."""
    given = [edit.config.get(key) for key in LORA_KERNELS]
    automatic = (
        given == [None] * len(given)
        and edit.config.get("adapter") in ("lora", "qlora")
        and not edit.config.get("load_in_8bit")
        and not edit.config.get("trust_remote_code")
    )
    for key, value in zip(LORA_KERNELS, given, strict=True):
        if key in ("lora_qkv_kernel", "lora_o_kernel"):
            why = "Axolotl turns it on by itself, unless another one is off"
            edit.set(key, bool(value or automatic), why)
        else:
            edit.set(key, False, "the kernel runs on CUDA", "fused LoRA kernels of the MLP")


def _quantisation(edit: _Edit) -> None:
    for key in ("load_in_4bit", "load_in_8bit"):
        if edit.config.get(key):
            edit.set(key, None, "bitsandbytes' training kernels run on CUDA", "quantised weights")
            if edit.config.get("adapter") == "qlora":
                edit.set("adapter", "lora", "qlora needs 4-bit weights")


def _length(edit: _Edit, sizes: Sizes) -> None:
    short = "a rehearsal is short"
    edit.set("max_steps", sizes.steps, short, "the end of an epoch")
    edit.set("save_steps", sizes.save_steps, short)
    edit.set("logging_steps", 1, "losses are compared step by step")
    longest = int(edit.config.get("sequence_len", sizes.sequence_len))
    edit.set(
        "sequence_len", min(longest, sizes.sequence_len), "many ranks share one memory",
        "sequences of full length",
    )  # fmt: skip
    for key in ("wandb_project", "wandb_name", "wandb_entity", "use_wandb", "hub_model_id",
                "mlflow_tracking_uri", "mlflow_experiment_name"):  # fmt: skip
        edit.set(key, None, "nothing leaves this machine", "tracking and uploads")


def adapted_deepspeed(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[Change]]:
    """Change what a CPU forces in DeepSpeed's own configuration.

    Args:
        content: Of the run's ``deepspeed.json``.

    Returns:
        The rehearsal's, and what it changes.
    """
    zero = dict(content.get("zero_optimization") or {})
    why = "all memory is a CPU's here, and building DeepSpeed's CPU Adam takes many minutes"
    changes = [
        Change(f"deepspeed: {key}", zero.pop(key), None, why, "offloading, DeepSpeed's CPU Adam")
        for key in ("offload_optimizer", "offload_param")
        if key in zero
    ]
    return {**content, "zero_optimization": zero} if changes else dict(content), changes
