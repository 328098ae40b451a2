"""Which files a checkpoint of the transformers trainer must have, and whether they are whole.

Read from transformers 5.16 (``Trainer._save_checkpoint``), accelerate 1.13 (``fsdp_utils``) and
DeepSpeed 0.18 (``engine.save_checkpoint``). The trainer writes, in this order: model, optimizer,
scheduler, random states (one per process), ``trainer_state.json``.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

Files = Mapping[str, int]

_STATE = "trainer_state.json"
_FSDP_MODEL, _FSDP_OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"


class Kind(StrEnum):
    """Who wrote the model and the optimizer.

    - ``plain``: the first process alone (one process, or DDP).
    - ``fsdp_sharded``: every process its shard (FSDP2 with ``SHARDED_STATE_DICT``).
    - ``fsdp_full``: the first process, gathered (FSDP with ``FULL_STATE_DICT``).
    - ``deepspeed``: every process its ZeRO partition.
    """

    PLAIN = "plain"
    FSDP_SHARDED = "fsdp_sharded"
    FSDP_FULL = "fsdp_full"
    DEEPSPEED = "deepspeed"


def list_files(folder: Path) -> dict[str, int]:
    """Sizes in bytes of all files below a folder, by their relative POSIX path.

    Raises:
        OSError: A folder or a file cannot be looked at (``Path.rglob`` passes over those that the
            user may not read, and they would count as missing).
    """

    def refuse(error: OSError) -> None:
        raise error

    sizes = {}
    for root, _, names in os.walk(folder, onerror=refuse):
        for path in (Path(root, name) for name in names):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                sizes[path.relative_to(folder).as_posix()] = status.st_size
    return dict(sorted(sizes.items()))


def kind_of(files: Files) -> Kind:
    """Tell from the names who wrote a checkpoint."""
    roots = {name.split("/")[0] for name in files}
    if "latest" in roots or any(root.startswith("global_step") for root in roots):
        return Kind.DEEPSPEED
    if _FSDP_MODEL in roots or _FSDP_OPTIMIZER in roots:
        return Kind.FSDP_SHARDED
    if "pytorch_model_fsdp.bin" in roots or "optimizer.bin" in roots:
        return Kind.FSDP_FULL
    return Kind.PLAIN


def find_problems(folder: Path, world_size: int) -> tuple[str, ...]:
    """Say what a checkpoint lacks to be resumed from.

    Names, sizes, and the ends of the formats are looked at; shards are not read. Those that a
    ``.metadata`` promises need torch: :func:`shard_problems`.

    Args:
        folder: ``checkpoint-N``.
        world_size: Processes that trained.

    Returns:
        One sentence a problem; empty when nothing is missing.
    """
    try:
        files = list_files(folder)
    except OSError as error:
        return (f"cannot be listed: {error.strerror or error}",)
    problems = [f"{name} is missing" for name in _required(folder, files, world_size)]
    problems += [f"{name} is empty" for name, size in files.items() if size == 0]
    for name in files:
        if files[name] == 0:
            continue
        try:
            problem = _damage(folder / name)
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        if problem is not None:
            problems.append(f"{name} {problem}")
    return tuple(problems)


def _required(folder: Path, files: Files, world_size: int) -> list[str]:
    """What is missing, in the order of a save."""
    kind = kind_of(files)
    missing = [*_missing_model(folder, files, kind, world_size)]
    names = [_STATE]
    if kind is not Kind.DEEPSPEED:
        names = ["scheduler.pt", _STATE]
    if world_size == 1:
        names.insert(-1, "rng_state.pth")
    else:
        names[-1:-1] = [f"rng_state_{rank}.pth" for rank in range(world_size)]
    return missing + [name for name in names if name not in files]


def _missing_model(folder: Path, files: Files, kind: Kind, world_size: int) -> list[str]:
    if kind is Kind.FSDP_SHARDED:
        return _missing_shards(files)
    if kind is Kind.FSDP_FULL:
        return [n for n in ("pytorch_model_fsdp.bin", "optimizer.bin") if n not in files]
    if kind is Kind.DEEPSPEED:
        return _missing_zero(folder, files, world_size)
    missing = [n for n in ("training_args.bin", "optimizer.pt") if n not in files]
    return _missing_weights(folder, files) + missing


def _missing_shards(files: Files) -> list[str]:
    missing = []
    for part in (_FSDP_MODEL, _FSDP_OPTIMIZER):
        if f"{part}/.metadata" not in files:
            missing.append(f"{part}/.metadata")
        if not any(n.startswith(f"{part}/") and n.endswith(".distcp") for n in files):
            missing.append(f"{part}/*.distcp")
    return missing


def _missing_zero(folder: Path, files: Files, world_size: int) -> list[str]:
    if "latest" not in files:
        return ["latest"]
    tag = (folder / "latest").read_text(encoding="utf-8").strip()
    names = {name.removeprefix(f"{tag}/") for name in files if name.startswith(f"{tag}/")}
    missing = [] if any(n.endswith("model_states.pt") for n in names) else ["*model_states.pt"]
    partitioned = any(n.startswith("zero_pp_rank_") and "model_states" in n for n in names)
    for rank in range(world_size):
        suffix = f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        if not any(n.endswith(suffix) for n in names):
            missing.append(suffix)
        model = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
        if partitioned and model not in names:
            missing.append(model)
    return [f"{tag}/{name}" for name in missing]


def _missing_weights(folder: Path, files: Files) -> list[str]:
    for stem in ("adapter_model", "model"):
        index = f"{stem}.safetensors.index.json"
        if index in files:
            shards = set(_read_json(folder / index).get("weight_map", {}).values())
            return sorted(shards - set(files)) if shards else [f"{stem}.safetensors"]
        if f"{stem}.safetensors" in files:
            needs_config = stem == "adapter_model" and "adapter_config.json" not in files
            return ["adapter_config.json"] if needs_config else []
    return ["model.safetensors or adapter_model.safetensors"]


def shard_problems(folder: Path) -> list[str]:
    """Compare every ``.metadata`` below a checkpoint with the shards beside it; needs torch.

    Returns:
        One sentence a problem; empty for a checkpoint without shards.
    """
    from torch.distributed.checkpoint import FileSystemReader

    problems = []
    for part in sorted(path.parent for path in folder.glob("*/.metadata")):
        try:
            metadata = FileSystemReader(part).read_metadata()
        except Exception as error:  # noqa: BLE001  # a damaged pickle raises whatever it likes
            problems.append(f"{part.name}/.metadata cannot be read ({type(error).__name__})")
            continue
        ends: dict[str, int] = {}
        for place in (metadata.storage_data or {}).values():
            end = place.offset + place.length
            ends[place.relative_path] = max(ends.get(place.relative_path, 0), end)
        for name, end in sorted(ends.items()):
            if not (part / name).is_file():
                problems.append(f"{part.name}/{name} is missing")
            elif (part / name).stat().st_size < end:
                problems.append(f"{part.name}/{name} is cut short")
    return problems


def _damage(path: Path) -> str | None:
    """What is wrong inside a file, as far as its format tells cheaply."""
    if path.suffix == ".safetensors":
        return _safetensors_damage(path)
    if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
        return "is cut short"
    if path.suffix == ".json" and not _read_json(path):
        return "is no JSON object"
    if path.name == _STATE:
        step, folder_step = _read_json(path).get("global_step"), path.parent.name.split("-")[-1]
        if folder_step.isdigit() and step != int(folder_step):
            return f"is of step {step}"
    return None


def _safetensors_damage(path: Path) -> str | None:
    """Compare a file's size with what its header promises (the header's length comes first)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            return "is cut short"
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return "has a damaged header"
    ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
    return None if 8 + length + max(ends, default=0) == size else "is cut short"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
