"""The completion marker of a checkpoint: written last, so that it says that all else is there.

It holds each file's fingerprint, and what the training's course depends on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multitask.errors import MultitaskError
from multitask.files import read_bytes, read_json, read_mapping, understood
from multitask.run import Run

MARKER = "multitask-checkpoint.json"

_VERSION = 1
_BLOCK = 1 << 20
_BLOCKS = 16

# Keys of axolotl.yaml that change what is recorded and how fast, not how the model is trained.
# Whole groups only where no key of the group trains: `use_pose`, `use_kernels` and
# `dataloader_drop_last` do, and so does a plugin.
_HARMLESS = (
    "save_", "logging_", "eval_", "evals_", "wandb_", "mlflow_", "comet_", "trackio_", "hub_",
)  # fmt: skip
_HARMLESS_KEYS = frozenset({
    "use_wandb", "use_mlflow", "use_comet", "use_tensorboard", "use_trackio",
    "dataset_prepared_path", "dataset_processes", "dataset_num_proc", "output_dir",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
})  # fmt: skip
_SHOWN = 5


@dataclass(frozen=True)
class Inputs:
    """What a training's course depends on.

    Attributes:
        world_size: Processes that train together.
        spec: SHA-256 of ``spec.yaml``.
        data: SHA-256 of each file of the training data, as the manifest states it.
        config: ``axolotl.yaml``, without what only says how to log, evaluate and save.
    """

    world_size: int
    spec: str
    data: Mapping[str, str]
    config: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run, world_size: int) -> Inputs:
        """Read a run's inputs.

        Raises:
            InputError: A file of the run cannot be read.
        """
        config, manifest = read_mapping(run.axolotl), read_json(run.manifest)
        with understood(run.manifest):
            data = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        kept = {
            key: config[key]
            for key in sorted(config)
            if key not in _HARMLESS_KEYS and not key.startswith(_HARMLESS)
        }
        # Of our own section, how tasks are weighed matters; how they are evaluated does not.
        section = kept.pop("multitask", None) or {}
        kept |= {f"multitask.{key}": section[key] for key in section if key != "evaluation"}
        spec = hashlib.sha256(read_bytes(run.spec)).hexdigest()
        # Through JSON, so that it equals what a marker gives back.
        return cls(world_size, spec, data, json.loads(json.dumps(kept, default=str)))

    def changes_to(self, now: Inputs) -> tuple[str, ...]:
        """Say what is different now, one sentence each; empty when training goes on the same."""
        changes = []
        if self.world_size != now.world_size:
            changes.append(
                f"world size: {self.world_size} processes then, {now.world_size} now; "
                "rows would be dealt and random numbers drawn differently"
            )
        pairs = {k: (self.config.get(k), now.config.get(k)) for k in {*self.config, *now.config}}
        keys = sorted(key for key, (then, today) in pairs.items() if then != today)
        changes += [
            f"{key}: {_short(pairs[key][0])} then, {_short(pairs[key][1])} now"
            for key in keys[:_SHOWN]
        ]
        if len(keys) > _SHOWN:
            changes.append(f"{len(keys) - _SHOWN} more keys of axolotl.yaml")
        if self.data.get("train.jsonl") != now.data.get("train.jsonl"):
            changes.append("data/train.jsonl: other rows than then")
        if self.spec != now.spec and not changes:
            changes.append("spec.yaml: edited since, though axolotl.yaml trains the same")
        return tuple(changes)


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint: its size in bytes, and its :func:`fingerprint`."""

    size: int
    fingerprint: str


@dataclass(frozen=True)
class Marker:
    """What a completion marker holds.

    Attributes:
        step: Optimizer steps done.
        created: Seconds since 1970.
        kind: Who wrote the state, a :class:`~multitask.checkpoints.layout.Kind`.
        inputs: What the training depended on.
        files: Every other file of the checkpoint, by its relative POSIX path.
    """

    step: int
    created: float
    kind: str
    inputs: Inputs
    files: Mapping[str, FileRecord]


def fingerprint(path: Path) -> FileRecord:
    """Take a file's size and a hash of its content.

    Up to 16 MiB all of it is hashed (xxh3, 128 bit); of more, 16 blocks of 1 MiB, evenly spaced
    from the first to the last byte. So it costs the same for a shard of 8 GB, and finds a file
    that was cut, swapped, or not written out; not a single changed bit.

    Raises:
        OSError: The file cannot be read.
    """
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        last = size - _BLOCK
        whole = size <= _BLOCKS * _BLOCK
        samples = [i * last // (_BLOCKS - 1) for i in range(_BLOCKS)]
        for offset in range(0, size, _BLOCK) if whole else samples:
            file.seek(offset)
            digest.update(file.read(_BLOCK))
    return FileRecord(size, digest.hexdigest())


def write_marker(folder: Path, marker: Marker) -> None:
    """Write the marker durably: a temporary file, flushed to disk, then renamed.

    Raises:
        OSError: It cannot be written; the checkpoint then counts as torn.
    """
    content = {"version": _VERSION} | asdict(marker)
    content["files"] = dict(sorted(content["files"].items()))
    temporary = folder / f".{MARKER}.partial"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, default=str)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MARKER)
    flush(folder)


class UnknownMarkerError(MultitaskError):
    """The marker is whole, and of a format that this version does not know."""


def read_marker(folder: Path) -> Marker | None:
    """Read a checkpoint's marker; None when it has none, or one that was not written whole.

    Raises:
        OSError: It is there and the disk does not give it, which says nothing of the checkpoint.
        UnknownMarkerError: Another version of this package wrote it.
    """
    try:
        content: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        version = content.pop("version")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if version != _VERSION:
        raise UnknownMarkerError(
            f"its marker has format {version!r}, and this version of multitask reads "
            f"{_VERSION} alone"
        )
    try:
        files = {name: FileRecord(**record) for name, record in content.pop("files").items()}
        return Marker(inputs=Inputs(**content.pop("inputs")), files=files, **content)
    except (KeyError, TypeError, AttributeError):
        return None


def flush(path: Path) -> None:
    """Have a file or folder written to disk, where the file system can do so.

    Raises:
        OSError: The disk is full or fails.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
