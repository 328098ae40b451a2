"""What a model is, by content: an evaluation belongs to its weights, wherever the run is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multitask.checkpoints.marker import fingerprint
from multitask.run import write_atomic

DIGESTS = "multitask-digests.json"
"""Beside the weights: their digests as the training left them."""

_LOADED = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py"}
# Of the same folder, and no part of the model.
_BESIDE = {DIGESTS, "calibration.json", "best.json"}
# Smaller files are hashed each time.
_LARGE = 32 * 2**20


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_key(name: str) -> str:
    """A digest that changes with a model's weights, configuration or tokenizer, and with no place.

    Of a folder: of the contents of the files that a model is loaded from. Of an adapter, its
    base's as well, as :func:`store_digests` noted it where the base is not on this machine. Of a
    Hub id: the id and the commit in the cache.
    """
    folder = Path(name)
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(f"{name}@{_cached_commit(name)}".encode())
        return digest.hexdigest()
    stored = _json(folder / DIGESTS)
    for path in _loaded(folder):
        digest.update(f"{path.name}:{_content(path, stored)}\n".encode())
    base = _base(folder)
    if base is not None:
        known = stored.get("base", {})
        is_here = Path(base).is_dir() or bool(_cached_commit(base))
        noted = known.get("key") if known.get("name") == base and not is_here else None
        digest.update((noted or model_key(base)).encode())
    return digest.hexdigest()


def store_digests(folder: Path) -> None:
    """Note the contents of a trained model's large files, and its base's key, beside them.

    Raises:
        OSError: A file cannot be read, or the note not written.
    """
    files = {
        path.name: asdict(fingerprint(path)) | {"sha256": file_hash(path)}
        for path in _loaded(folder)
        if path.stat().st_size > _LARGE
    }
    content: dict[str, Any] = {"files": files}
    base = _base(folder)
    if base is not None:
        content["base"] = {"name": base, "key": model_key(base)}
    write_atomic(folder / DIGESTS, json.dumps(content, indent=1) + "\n")


def _loaded(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in _LOADED and path.name not in _BESIDE and path.is_file()
    ]


def _content(path: Path, stored: dict[str, Any]) -> str:
    """SHA-256 of a file; the noted one of a large file whose size and samples are as noted."""
    noted = stored.get("files", {}).get(path.name)
    if noted is not None:
        found = fingerprint(path)
        if (found.size, found.fingerprint) == (noted["size"], noted["fingerprint"]):
            return str(noted["sha256"])
    return file_hash(path)


def _base(folder: Path) -> str | None:
    """What an adapter is on; None where the folder holds none."""
    adapter = _json(folder / "adapter_config.json")
    name = adapter.get("base_model_name_or_path")
    return None if name is None else str(name)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _cached_commit(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return ""
    return Path(path).parent.name if isinstance(path, str) else ""
