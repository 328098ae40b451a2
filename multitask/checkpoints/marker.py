"""The completion marker of a checkpoint: written last, so that it says that all else is there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multitask.checkpoints.inputs import Inputs
from multitask.errors import MultitaskError

MARKER = "multitask-checkpoint.json"

_VERSION = 1
_BLOCK = 1 << 20
_BLOCKS = 16


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint.

    Attributes:
        size: Bytes.
        fingerprint: From :func:`fingerprint`.
    """

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
        whole = size <= _BLOCKS * _BLOCK
        last = size - _BLOCK
        offsets = [i * last // (_BLOCKS - 1) for i in range(_BLOCKS)]
        for offset in range(0, size, _BLOCK) if whole else offsets:
            file.seek(offset)
            digest.update(file.read(_BLOCK))
    return FileRecord(size, digest.hexdigest())


def write_marker(folder: Path, marker: Marker) -> None:
    """Write the marker durably: a temporary file, flushed to disk, then renamed.

    Raises:
        OSError: It cannot be written; the checkpoint then counts as torn.
    """
    content = {
        "version": _VERSION,
        "step": marker.step,
        "created": marker.created,
        "kind": marker.kind,
        "inputs": asdict(marker.inputs),
        "files": {name: asdict(record) for name, record in sorted(marker.files.items())},
    }
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
        text = (folder / MARKER).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return None
    try:
        content: dict[str, Any] = json.loads(text)
        version = content["version"]
    except (ValueError, KeyError, TypeError):
        return None
    if version != _VERSION:
        raise UnknownMarkerError(
            f"its marker has format {version!r}, and this version of multitask reads "
            f"{_VERSION} alone"
        )
    try:
        return Marker(
            step=content["step"],
            created=content["created"],
            kind=content["kind"],
            inputs=Inputs(**content["inputs"]),
            files={name: FileRecord(**record) for name, record in content["files"].items()},
        )
    except (KeyError, TypeError, AttributeError):
        return None


def flush(path: Path) -> None:
    """Have a file or folder written to disk, where the file system can do so.

    Raises:
        OSError: The disk is full or fails.
    """
    import errno

    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
