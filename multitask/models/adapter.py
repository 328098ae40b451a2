"""Loading adapters so that a part that is missing is an error, not a warning.

PEFT fills in what a file lacks with fresh matrices, whose product is zero, ignores what the model
has no place for, and only warns (``peft/peft_model.py``, ``PeftModel.from_pretrained``). An adapter
saved under other names is then the base model, and would be scored as if it had been trained.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from multitask.errors import InputError

_SHOWN = 2


def load_adapter(model: Any, folder: Path) -> Any:
    """Put an adapter onto its base model, all of it.

    Args:
        model: The base model, on the device where its weights are to be decomposed (PiSSA).
        folder: The adapter's.

    Returns:
        The ``PeftModel``.

    Raises:
        InputError: The adapter's tensors are not those that the model has places for.
    """
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, str(folder))
    require_whole(adapted, folder)
    return adapted


def require_whole(adapted: Any, folder: Path) -> None:
    """Compare the tensors of an adapter's file with those that a model has places for.

    Args:
        adapted: A ``PeftModel`` that the adapter was, or will be, loaded into.
        folder: The adapter's, on this machine; nothing is compared where it is not.

    Raises:
        InputError: Some are missing, or have no place in the model.
    """
    from peft import get_peft_model_state_dict

    found = adapter_names(folder)
    if found is None:
        return
    places = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    # Embeddings may come along with an adapter, under the names that they have in the base.
    missing, unexpected = places - found, found - places - set(adapted.state_dict())
    if not missing and not unexpected:
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(places)} tensors are missing ({_some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} have no place in the model ({_some(unexpected)})")
    raise InputError(
        f"the adapter does not fit its base model: {'; '.join(parts)}",
        where=folder,
        fix="use the base model and the method that it was trained with; if its names contain "
        "`_checkpoint_wrapped_module`, train again without fsdp_config.activation_checkpointing",
    )


def adapter_names(folder: Path) -> set[str] | None:
    """Names of the tensors in an adapter's file; None where there is no file."""
    whole = folder / "adapter_model.safetensors"
    if whole.is_file():
        from safetensors import safe_open

        with safe_open(whole, framework="numpy") as file:
            return set(file.keys())
    if (folder / "adapter_model.bin").is_file():
        from peft import load_peft_weights

        return set(load_peft_weights(str(folder), device="cpu"))
    return None


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")


def decomposes(init_lora_weights: Any) -> bool:
    """Whether an initialisation of LoRA decomposes every weight that it adapts."""
    return str(init_lora_weights).startswith("pissa")


def place_for_decomposition(cfg: Any, model: Any) -> None:
    """Move a model to this process's GPU before PiSSA decomposes its weights.

    PEFT decomposes where the weights lie (``peft/tuners/lora/layer.py``, ``pissa_init``), and with
    one GPU Axolotl loads them into main memory: hours of a CPU's time at every start, instead of
    minutes of a GPU's. The weights would go there a moment later anyway.

    Args:
        cfg: Axolotl's configuration.
        model: The base model; it stays where it is under FSDP, with DeepSpeed, and without a GPU.
    """
    import torch

    placed_by_others = cfg["fsdp_config"] or cfg["deepspeed"]
    if not decomposes(cfg["peft_init_lora_weights"]) or placed_by_others:
        return
    if torch.cuda.is_available() and next(model.parameters()).device.type == "cpu":
        model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
