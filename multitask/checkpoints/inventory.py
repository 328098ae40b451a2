"""The checkpoints of a run: which are complete, from which training goes on, which may go.

The trainer's own rotation counts folders by their time of change, complete or not; three torn
ones in a row would push the last good one out. The one here counts complete ones alone.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from multitask.checkpoints.layout import find_problems, list_files
from multitask.checkpoints.marker import (
    MARKER,
    Inputs,
    Marker,
    UnknownMarkerError,
    fingerprint,
    read_marker,
)
from multitask.errors import InputError, MultitaskError
from multitask.run import Run

TORN_PREFIX = "torn-"

_NAME = re.compile(r"checkpoint-(\d+)")
_REMOVING = ".removing-"
_SAFE = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder.

    One that cannot be looked at is *unreadable*: neither complete nor torn. A disk that fails for
    a moment says nothing of what is on it, so nothing goes on without it and nothing moves it.

    Attributes:
        path: The folder, ``checkpoint-N``.
        step: N, optimizer steps done.
        problems: Why it is torn, or cannot be looked at; empty when it is complete.
        size: Bytes of all files.
        modified: When it was completed, or last changed if torn; seconds since 1970.
        marker: Its completion marker, where it has one.
        readable: Whether it could be looked at.
    """

    path: Path
    step: int
    problems: tuple[str, ...]
    size: int
    modified: float
    marker: Marker | None
    readable: bool = True

    @property
    def complete(self) -> bool:
        """Whether training can go on from it."""
        return not self.problems

    @property
    def torn(self) -> bool:
        """Whether its save did not end, or its files changed since."""
        return self.readable and bool(self.problems)

    @property
    def state(self) -> str:
        """``complete``, ``torn`` or ``unreadable``."""
        return "complete" if self.complete else "torn" if self.torn else "unreadable"


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
    step = step_of(path) or 0
    try:
        files, modified = list_files(path), path.stat().st_mtime
        marker = read_marker(path)
        if marker is None:
            world_size = max(1, sum(name.startswith("rng_state_") for name in files))
            problems = [*find_problems(path, world_size)]
            problems.append(f"no {MARKER}, so the save did not end")
        else:
            modified = marker.created
            problems = _differences(path, files, marker, contents=contents)
    except OSError as error:
        problem = f"{_inside(path, error)} cannot be read: {error.strerror or error}"
        return Checkpoint(path, step, (problem,), 0, 0.0, None, readable=False)
    except UnknownMarkerError as error:
        size = sum(files.values())
        return Checkpoint(path, step, (str(error),), size, modified, None, readable=False)
    return Checkpoint(path, step, tuple(problems), sum(files.values()), modified, marker)


def _inside(folder: Path, error: OSError) -> str:
    """The file that an error is about, as it is called inside a checkpoint."""
    name = str(error.filename or "one of its files")
    return name.removeprefix(f"{folder}{os.sep}") if name != str(folder) else "the folder"


def _differences(path: Path, files: dict[str, int], marker: Marker, *, contents: bool) -> list[str]:
    problems = []
    for name, record in marker.files.items():
        if name not in files:
            problems.append(f"{name} is missing")
        elif files[name] != record.size:
            problems.append(f"{name} has {files[name]} bytes instead of {record.size}")
        elif contents and fingerprint(path / name) != record:
            problems.append(f"{name} has other content than when it was saved")
    return problems


def list_checkpoints(model_dir: Path, *, contents: bool = False) -> list[Checkpoint]:
    """All checkpoints of an output directory, which need not exist, by step.

    Args:
        model_dir: The engine's output directory.
        contents: Compare the files' contents too.

    Raises:
        OSError: The directory is there and cannot be listed.
    """
    try:
        folders = list(model_dir.iterdir())
    except FileNotFoundError:
        folders = []
    found = [path for path in folders if step_of(path) is not None and path.is_dir()]
    checkpoints = [inspect_checkpoint(path, contents=contents) for path in found]
    return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)


def newest_complete(model_dir: Path, *, contents: bool = False) -> Checkpoint | None:
    """The complete checkpoint of the highest step.

    Args:
        model_dir: The engine's output directory.
        contents: Trust only one whose contents are still what was saved; older ones are not
            read when a newer one is. A newer one that cannot be read then ends the search.

    Raises:
        MultitaskError: With ``contents``: a checkpoint that may be the newest cannot be read.
    """
    for checkpoint in reversed(list_checkpoints(model_dir)):
        if contents and checkpoint.complete:
            checkpoint = inspect_checkpoint(checkpoint.path, contents=True)  # noqa: PLW2901
        if contents and not checkpoint.readable:
            raise MultitaskError(
                f"{checkpoint.problems[0]}; whether it is complete is not known, so nothing was "
                "changed and nothing goes on from an older one",
                where=checkpoint.path,
                fix="see that the disk can be read, then start again with --resume; to go on "
                "without this checkpoint, move it out of the folder first",
            )
        if checkpoint.complete:
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


@dataclass(frozen=True)
class ResumePoint:
    """A decision, made once for all processes of an attempt.

    Attributes:
        path: The checkpoint; None to start from the base model.
        step: Its step; 0 to start.
        set_aside: Torn checkpoints that were renamed.
        changes: What changed since the checkpoint, where that was accepted.
    """

    path: Path | None
    step: int = 0
    set_aside: tuple[Path, ...] = ()
    changes: tuple[str, ...] = ()


def choose_resume(run: Run, world_size: int, *, accept_changes: bool = False) -> ResumePoint:
    """Choose the newest complete checkpoint and set torn ones aside.

    Args:
        run: The run.
        world_size: Processes that will train.
        accept_changes: Go on although the inputs are not those of the checkpoint.

    Raises:
        InputError: The inputs changed since the checkpoint, and that was not accepted.
        MultitaskError: A checkpoint that may be the newest cannot be read; nothing is set aside.
    """
    newest = newest_complete(run.model, contents=True)
    changes: tuple[str, ...] = ()
    if newest is not None and newest.marker is not None:
        changes = newest.marker.inputs.changes_to(Inputs.of(run, world_size))
        if changes and not accept_changes:
            raise InputError(
                "the run changed since this checkpoint was saved:\n"
                + "\n".join(f"  - {change}" for change in changes),
                where=newest.path,
                fix="undo the change, build a new run for it, or add --accept-changes to go on "
                "from the checkpoint all the same",
            )
    step = newest.step if newest is not None else -1
    # A torn one of an older step is no danger, but the engine would save into it or merge it.
    aside = [c for c in list_checkpoints(run.model) if c.torn or (c.complete and c.step > step)]
    return ResumePoint(
        path=None if newest is None else newest.path,
        step=max(step, 0),
        set_aside=tuple(set_aside(checkpoint) for checkpoint in aside),
        changes=changes,
    )


def rotate(model_dir: Path, keep: int | None, *, protect: Collection[str] = ()) -> list[str]:
    """Remove complete checkpoints that are older than the newest ones.

    Nothing is removed before two complete ones exist, and the newest two always stay. Torn ones,
    set aside or not, are the user's to remove. A folder is renamed before it is deleted, so that
    a crash in between leaves no half checkpoint.

    Args:
        model_dir: The engine's output directory.
        keep: Complete checkpoints to keep, two at least; None keeps all.
        protect: Names of checkpoints that stay, such as the best one.

    Returns:
        Names of what was removed.
    """
    complete = [c.path for c in list_checkpoints(model_dir) if c.complete]
    for left in model_dir.glob(f"{_REMOVING}*"):
        shutil.rmtree(left, ignore_errors=True)
    if len(complete) < _SAFE:
        return []
    old = [] if keep is None else complete[: -max(keep, _SAFE)]
    removed = []
    for path in (path for path in old if path.name not in protect):
        hidden = path.rename(path.with_name(f"{_REMOVING}{path.name}"))
        shutil.rmtree(hidden, ignore_errors=True)
        removed.append(path.name)
    return removed
