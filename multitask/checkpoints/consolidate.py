"""Making what transformers and peft load from a sharded checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from multitask.errors import MultitaskError
from multitask.run import write_atomic

SHARDS = "pytorch_model_fsdp_0"
"""The folder of a checkpoint in which FSDP keeps the weights."""

SHARD_SIZE = "5GB"
"""Of the files that are made."""

_WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_LOADED = re.compile(
    _WEIGHTS.pattern
    + r"|(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map"
    r"|added_tokens|chat_template|vocab|preprocessor_config|processor_config)\.json"
    r"|merges\.txt|chat_template\.jinja|[\w.-]+\.(model|tiktoken)|(modeling|configuration|"
    r"tokenization)_\w+\.py"
)


def loaded_files(folder: Path) -> list[Path]:
    """The files that a model or an adapter is loaded from; checkpoints and logs are not."""
    return sorted(p for p in folder.iterdir() if p.is_file() and _LOADED.fullmatch(p.name))


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights that transformers or peft load."""
    return any(_WEIGHTS.fullmatch(path.name) for path in folder.iterdir())


def copy_small_files(folder: Path, out: Path) -> None:
    """Copy what a model is loaded from beside its weights, where ``out`` lacks it."""
    out.mkdir(parents=True, exist_ok=True)
    for path in loaded_files(folder):
        if not _WEIGHTS.fullmatch(path.name) and not (out / path.name).exists():
            shutil.copy2(path, out / path.name)


def merge_shards(checkpoint: Path, beside: Path, out: Path) -> None:
    """Gather a sharded checkpoint into safetensors.

    Args:
        checkpoint: ``checkpoint-N``, complete.
        beside: A folder with the small files of the model: configuration, tokenizer, template.
        out: Where the files go.

    Raises:
        MultitaskError: A shard is damaged.
    """
    import torch
    from accelerate.utils import merge_fsdp_weights
    from huggingface_hub import save_torch_state_dict
    from safetensors import safe_open
    from torch.distributed.checkpoint.api import CheckpointException

    copy_small_files(beside, out)
    if (out / "config.json").is_file():
        _without_prefix(out / "config.json")
    gathered = out / "gathered"
    try:
        merge_fsdp_weights(str(checkpoint / SHARDS), str(gathered))
    except (Exception, CheckpointException) as error:  # noqa: BLE001  # a damaged shard raises anything
        damage = next(iter(getattr(error, "failures", {}).values()), (error,))[0]
        raise MultitaskError(
            f"the shards cannot be merged ({type(damage).__name__})",
            where=checkpoint,
            fix="remove the checkpoint, then end the training again with --resume",
        ) from None
    is_adapter = (out / "adapter_config.json").is_file()
    dtype = None if is_adapter else _dtype(out)
    with safe_open(gathered / "model.safetensors", framework="pt") as file:
        tensors = {
            name: file.get_tensor(name).to(getattr(torch, dtype) if dtype else None)
            for name in file.keys()  # noqa: SIM118 (a file, not a dict)
        }
    stem = "adapter_model" if is_adapter else "model"
    save_torch_state_dict(
        tensors,
        out,
        filename_pattern=f"{stem}{{suffix}}.safetensors",
        max_shard_size=SHARD_SIZE,
    )
    shutil.rmtree(gathered)


def _without_prefix(path: Path) -> None:
    """Take FSDP out of the architecture's name, as Axolotl does only after it merged."""
    config = json.loads(path.read_text(encoding="utf-8"))
    names = config.get("architectures") or []
    if any(name.startswith("FSDP") for name in names):
        config["architectures"] = [name.removeprefix("FSDP") for name in names]
        write_atomic(path, json.dumps(config, indent=2) + "\n")


def _dtype(folder: Path) -> str:
    """The data type that a model's configuration says; shards of training are often wider."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return name if name in ("float32", "float16", "bfloat16") else "bfloat16"
