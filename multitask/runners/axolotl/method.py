"""A method in Axolotl's keys, and read back from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multitask.cluster import Method
from multitask.errors import InputError
from multitask.estimate import StateBytes, Training, training_of
from multitask.models import ALL_LINEAR, ModelShape

# peft's types that Axolotl trains; the second by our plugin.
PEFT = ("lora", "adalora")


def method_keys(method: Method) -> dict[str, Any]:
    """Axolotl's keys for what learns.

    Args:
        method: One whose ``peft`` is among :data:`PEFT`, or none.
    """
    if method.peft is None:
        return {}
    keys: dict[str, Any] = {"adapter": "qlora" if method.bits == 4 else method.peft}
    if method.bits != 16:
        keys[f"load_in_{method.bits}bit"] = True
    keys |= {"lora_r": method.rank, "lora_alpha": method.alpha, "lora_dropout": method.dropout}
    if method.targets == "all-linear":
        keys["lora_target_linear"] = True
    else:
        keys["lora_target_modules"] = list(method.targets)
    keys |= {f"peft_{name}": value for name, value in method.options.items()}
    if method.lr_ratio is not None:
        keys["loraplus_lr_ratio"] = method.lr_ratio
    return keys


def training_from(shape: ModelShape, config: Mapping[str, Any]) -> Training:
    """What a configuration trains, for an estimate.

    Args:
        shape: The model's.
        config: Axolotl's keys; those of the adapter, the base's bits, the precision and the
            optimizer count.

    Raises:
        InputError: A target module is not one of the model's, or the adapter is not known.
    """
    adapter = config.get("adapter")
    if adapter not in (None, "qlora", *PEFT):
        raise InputError(f"the size of the adapter {adapter!r} is not known", where="key 'adapter'")
    targets = config.get("lora_target_modules")
    return training_of(
        shape,
        "lora" if adapter == "qlora" else adapter,
        rank=int(config.get("lora_r") or 8),
        # A regular expression is how Axolotl is told to leave a vision tower out.
        targets=ALL_LINEAR if targets is None or isinstance(targets, str) else tuple(targets),
        dora=bool(config.get("peft_use_dora")),
        **_holding(config),
    )


def _holding(config: Mapping[str, Any]) -> dict[str, Any]:
    """How weights and optimizer states are held; fields of ``Training``."""
    bits = 4 if config.get("load_in_4bit") else 8 if config.get("load_in_8bit") else 16
    if bits == 16 and config.get("bf16") is False and not config.get("fp16"):
        bits = 32
    return {"base_bits": bits, "optimizer": str(config.get("optimizer", "adamw_torch_fused"))}


def held_bytes(config: Mapping[str, Any], sharding: str) -> StateBytes:
    """What an estimate assumes of each parameter that learns, whatever the model."""
    frozen = config.get("adapter") is not None
    return Training(0, frozen_base=frozen, **_holding(config)).state_bytes(sharding)
