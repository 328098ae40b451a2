"""The precision of what learns: float32 while it trains, and as it was loaded afterwards."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def hold_in_float32(cfg: Any, model: Any) -> dict[str, torch.dtype]:
    """Hold every parameter that learns in float32, so that no small update is rounded away.

    Axolotl loads all weights in bfloat16 (``axolotl/loaders/model.py``,
    ``_set_device_map_config``), and nothing raises them: accelerate's code for FSDP2 binds a
    converted copy to a name and drops it (``accelerate/utils/fsdp_utils.py``, the end of
    ``fsdp2_prepare_model``). Weights, gradients and Adam would all have 8 significant bits. Held in
    float32, they still compute in bfloat16: by FSDP2's mixed-precision policy, or by autocast.

    DeepSpeed and FSDP1 keep float32 copies of their own.

    Args:
        cfg: Axolotl's configuration.
        model: The model as it will be trained, before its optimizer is made.

    Returns:
        What was changed: the data type that each parameter was loaded in.
    """
    import torch

    if not _mixed(cfg):
        return {}
    loaded: dict[str, torch.dtype] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
                loaded[name] = parameter.dtype
                parameter.data = (
                    torch.empty_like(parameter, dtype=torch.float32)
                    if _has_no_weights(cfg)
                    else parameter.data.to(torch.float32)
                )
    return loaded


def _mixed(cfg: Any) -> bool:
    """Whether the training computes in another precision than it should keep weights in."""
    if cfg.deepspeed or (cfg.fsdp_config and str(cfg.fsdp_version) != "2"):
        return False
    return bool(cfg.bf16 or cfg.fp16)


def _has_no_weights(cfg: Any) -> bool:
    """Whether FSDP2 will give this process its weights, and what it holds now is not read.

    Converting would touch memory that was never written: a whole model for each process of a node.
    """
    fsdp = cfg.fsdp_config
    waits = bool(fsdp and fsdp.cpu_ram_efficient_loading)
    return waits and int(os.environ.get("LOCAL_RANK", "0")) != 0


def restore(model: Any, loaded: dict[str, torch.dtype]) -> None:
    """Give parameters the data type that they were loaded in, for the final save.

    Sharded weights are left alone: Axolotl merges them from the last checkpoint in bfloat16
    (``axolotl/cli/merge_sharded_fsdp_weights.py``, ``BFloat16CastPlanner``).

    Args:
        model: The trained model.
        loaded: What :func:`hold_in_float32` gave.
    """
    import torch
    from torch.distributed.tensor import DTensor

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in loaded and not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(loaded[name])
