"""The checkpoints of a run: complete or torn, and the newest that is complete."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from multitask.checkpoints.layout import find_problems, list_files
from multitask.checkpoints.marker import MARKER, Marker, fingerprint, read_marker

TORN_PREFIX = "torn-"

_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder.

    Attributes:
        path: The folder, ``checkpoint-N``.
        step: N, optimizer steps done.
        problems: Why it is torn; empty when it is complete.
        size: Bytes of all files.
        modified: When it was completed, or last changed if torn; seconds since 1970.
        marker: Its completion marker, where it has one.
    """

    path: Path
    step: int
    problems: tuple[str, ...]
    size: int
    modified: float
    marker: Marker | None

    @property
    def complete(self) -> bool:
        """Whether training can go on from it."""
        return not self.problems


def step_of(path: Path) -> int | None:
    """The step in a checkpoint folder's name; None when it is no checkpoint's."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def inspect_checkpoint(path: Path, *, contents: bool = False) -> Checkpoint:
    """Look at a checkpoint: its marker, and whether every file is there as the marker says.

    Args:
        path: ``checkpoint-N``.
        contents: Read the files too and compare their fingerprints.
    """
    marker, size, problems = read_marker(path), 0, []
    try:
        files = list_files(path)
        size, modified = sum(files.values()), path.stat().st_mtime
    except OSError as error:
        files, modified = {}, 0.0
        problems.append(f"cannot be listed: {error.strerror or error}")
    if marker is None:
        world_size = max(1, sum(name.startswith("rng_state_") for name in files))
        problems += find_problems(path, world_size)
        problems.append(f"no {MARKER}, so the save did not end")
    else:
        modified = marker.created
        problems += _differences(path, files, marker, contents=contents)
    return Checkpoint(path, step_of(path) or 0, tuple(problems), size, modified, marker)


def _differences(path: Path, files: dict[str, int], marker: Marker, *, contents: bool) -> list[str]:
    problems = []
    for name, record in marker.files.items():
        if name not in files:
            problems.append(f"{name} is missing")
        elif files[name] != record.size:
            problems.append(f"{name} has {files[name]} bytes instead of {record.size}")
        elif contents:
            try:
                if fingerprint(path / name) != record:
                    problems.append(f"{name} has other content than when it was saved")
            except OSError as error:
                problems.append(f"{name} cannot be read: {error.strerror or error}")
    return problems


def list_checkpoints(model_dir: Path, *, contents: bool = False) -> list[Checkpoint]:
    """All checkpoints of an output directory, by step.

    Args:
        model_dir: Axolotl's output directory; it need not exist.
        contents: Compare the files' contents too.
    """
    folders = model_dir.iterdir() if model_dir.is_dir() else ()
    found = [path for path in folders if step_of(path) is not None and path.is_dir()]
    checkpoints = [inspect_checkpoint(path, contents=contents) for path in found]
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)


def newest_complete(model_dir: Path, *, contents: bool = False) -> Checkpoint | None:
    """The complete checkpoint of the highest step.

    Args:
        model_dir: Axolotl's output directory.
        contents: Trust only one whose contents are still what was saved; older ones are not
            read when a newer one is.
    """
    for checkpoint in reversed(list_checkpoints(model_dir)):
        if not checkpoint.complete:
            continue
        if not contents or inspect_checkpoint(checkpoint.path, contents=True).complete:
            return checkpoint
    return None


def set_aside(checkpoint: Checkpoint) -> Path:
    """Rename a torn checkpoint, so that nothing resumes from it or saves into it.

    Returns:
        Its new place beside the others, ``torn-checkpoint-N-<time>``.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    target = checkpoint.path.with_name(f"{TORN_PREFIX}{checkpoint.path.name}-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{TORN_PREFIX}{checkpoint.path.name}-{stamp}-{number}")
    return checkpoint.path.rename(target)
