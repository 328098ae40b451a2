"""Checkpoints during training: verify each save, mark it, rotate; save and stop on request."""

from __future__ import annotations

import logging
import re
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from multitask.checkpoints import (
    MARKER,
    Inputs,
    Marker,
    find_problems,
    fingerprint,
    newest_complete,
    rotate,
    write_marker,
)
from multitask.checkpoints.layout import kind_of, list_files, shard_problems
from multitask.checkpoints.marker import FileRecord, flush
from multitask.errors import MultitaskError
from multitask.run import Run
from multitask.training.attempts import stop_requested
from multitask.training.progress import write_event

_LOG = logging.getLogger(__name__)

LOOK_SECONDS = 0.5

_STOP, _SKIP = 1, 2
_FLAGS = 2  # bits; above them stand the steps until all look again
_MOST_STEPS = 10_000
_VISIBLE_SECONDS = 60.0
_ROOM = 1.05
_LEAST = 2
_SHARDED_MODEL = "pytorch_model_fsdp_0"

# Files that a process other than the first writes, with its rank in the name.
_OWNER = re.compile(r"(?:^|/)(?:__(\d+)_\d+\.distcp|rng_state_(\d+)\.pth|.*zero_pp_rank_(\d+)_.*)$")


def rank() -> int:
    """This process's number; 0 where it is alone."""
    return int(_group().get_rank()) if _group() else 0


def world_size() -> int:
    """How many processes train together."""
    return int(_group().get_world_size()) if _group() else 1


def gather(value: Any) -> list[Any]:
    """Give every process the values of all, by rank; it also waits for all."""
    values = [value] * world_size()
    if len(values) > 1:
        _group().all_gather_object(values, value)
    return values


def agree(flags: int, device: Any) -> int:
    """Give every process the first one's small number."""
    if world_size() == 1:
        return flags
    import torch

    tensor = torch.tensor(flags, dtype=torch.int32, device=device)
    _group().broadcast(tensor, src=0)
    return int(tensor.item())


def _group() -> Any:
    """torch.distributed where processes train together, else None."""
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None


class CheckpointCallback(TrainerCallback):
    """Completes every save of the trainer, and ends the training where a stop is asked for.

    The trainer's own rotation is taken over, because it runs before anyone has looked at the new
    checkpoint and counts torn ones.

    Attributes:
        run: The run.
        keep: Complete checkpoints to keep; the trainer's ``save_total_limit``.
    """

    def __init__(self, run: Run, *, look_seconds: float = LOOK_SECONDS) -> None:
        """Work for ``run``; look for a request to stop about every ``look_seconds``.

        Each look reads the volume that nodes share, and has all processes wait for the first one.
        """
        self.run, self._look_seconds = run, look_seconds
        self.keep: int | None = None
        self._inputs: Inputs | None = None
        self._stopping = False
        self._next_look = 0
        self._looked: tuple[float, int] | None = None
        self._best: dict[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Take the rotation over."""
        if args.save_total_limit is not None:
            self.keep, args.save_total_limit = args.save_total_limit, None
        self._inputs = Inputs.of(self.run, world_size())
        self._best = _best_of(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Look for a request to stop, and for room on the disk; all processes do as the first.

        They do so together, so at which steps is agreed as well; at a save they do in any case.
        """
        if state.global_step < self._next_look and not control.should_save:
            return
        wish = 0
        if rank() == 0:
            wish = _STOP * stop_requested(self.run)
            # The last save is never skipped: Axolotl makes the final model of FSDP from it.
            wants_save = control.should_save and state.global_step < state.max_steps
            if (wants_save or wish) and not self._has_room(args, state):
                wish |= _SKIP
            wish |= self._steps_to_next_look(state.global_step) << _FLAGS
        wish = agree(wish, args.device)
        self._next_look = state.global_step + (wish >> _FLAGS)
        if wish & _STOP:
            self._stopping = True
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False
        if wish & _SKIP:
            control.should_save = False

    def _steps_to_next_look(self, step: int) -> int:
        """How many steps fit into the time between looks, by those since the last one."""
        now, before = time.monotonic(), self._looked
        self._looked = now, step
        if before is None or step <= before[1]:
            return 1
        pace = max(1e-9, (now - before[0]) / (step - before[1]))
        return max(1, min(_MOST_STEPS, int(self._look_seconds / pace)))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Verify the checkpoint, write its marker, then rotate."""
        start = time.perf_counter()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        gathered = gather(_own_records(folder))
        problems = self._complete(folder, gathered, state, start) if rank() == 0 else []
        if not agree(len(problems), args.device):
            self._best = _best_of(state)
        elif state.best_global_step == state.global_step:
            # Nothing can be loaded from it: what was best before still is, for the trainer too.
            vars(state).update(self._best)
        if rank() != 0:
            return
        if problems:
            self._refuse_last(folder, state, problems)
        else:
            self._rotate(args, state, self.keep)

    def _complete(self, folder: Path, gathered: list[Any], state: Any, start: float) -> list[str]:
        """Verify and mark; what is wrong with the checkpoint."""
        problems = [error for _, error in gathered if error is not None]
        files = {name: record for records, _ in gathered for name, record in records.items()}
        problems = problems or _verify(folder, files)
        if not problems:
            problems = self._mark(folder, state.global_step, files)
        size = sum(record.size for record in files.values())
        seconds = round(time.perf_counter() - start, 3)
        write_event(
            self.run.trainer_events, "checkpoint", state,
            complete=not problems, problems=problems, seconds=seconds, size=size,
        )  # fmt: skip
        if problems:
            _LOG.error(
                "%s is torn, training goes on without it: %s", folder.name, "; ".join(problems)
            )
        return problems

    def _refuse_last(self, folder: Path, state: Any, problems: list[str]) -> None:
        if state.global_step >= state.max_steps and (folder / _SHARDED_MODEL).exists():
            raise MultitaskError(
                f"the last checkpoint is torn ({problems[0]}), and Axolotl would make the "
                "final model from it",
                where=folder,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """End the process after a stop, so that no half-trained model is saved as the final one."""
        if not self._stopping or state.global_step >= state.max_steps:
            return
        write_event(self.run.trainer_events, "stopped", state)
        if world_size() > 1:
            _group().barrier()
            _group().destroy_process_group()
        raise SystemExit(0)

    def _mark(self, folder: Path, step: int, files: dict[str, FileRecord]) -> list[str]:
        assert self._inputs is not None
        marker = Marker(
            step=step,
            created=time.time(),
            kind=kind_of({name: record.size for name, record in files.items()}),
            inputs=self._inputs,
            files=files,
        )
        try:
            write_marker(folder, marker)
        except OSError as error:
            return [f"{MARKER} cannot be written: {error.strerror or error}"]
        return []

    def _rotate(self, args: Any, state: Any, keep: int | None) -> None:
        best = state.best_model_checkpoint
        try:
            rotate(Path(args.output_dir), keep, protect=[Path(best).name] if best else [])
        except OSError as error:
            _LOG.warning("old checkpoints could not be removed: %s", error)

    def _has_room(self, args: Any, state: Any) -> bool:
        """Whether another checkpoint like the newest fits, at need without the older ones."""
        newest = newest_complete(Path(args.output_dir))
        if newest is None:
            return True
        if _free(args) < _ROOM * newest.size:
            self._rotate(args, state, _LEAST)
        free = _free(args)
        if free >= _ROOM * newest.size:
            return True
        write_event(self.run.trainer_events, "save_skipped", state, free=free, needed=newest.size)
        _LOG.error(
            "step %d is not saved: a checkpoint takes %.1f MB and %.1f MB are free on the disk of "
            "%s; training goes on, %s stays the newest",
            state.global_step, newest.size / 1e6, free / 1e6, args.output_dir, newest.path.name,
        )  # fmt: skip
        return False


def _best_of(state: Any) -> dict[str, Any]:
    """What the trainer's state says of the best checkpoint.

    transformers 5.16 moves it on while it saves, before anyone has looked at what was written
    (``Trainer._determine_best_metric`` and ``Trainer._save_checkpoint``, trainer.py).
    """
    names = ("best_metric", "best_global_step", "best_model_checkpoint")
    return {name: getattr(state, name) for name in names}


def _free(args: Any) -> int:
    return shutil.disk_usage(args.output_dir).free


def _own_records(folder: Path) -> tuple[dict[str, FileRecord], str | None]:
    """Flush and fingerprint the files of this process; the first one takes the common ones."""
    records: dict[str, FileRecord] = {}
    try:
        for name in list_files(folder):
            match = _OWNER.search(name)
            owner = int(next(group for group in match.groups() if group)) if match else 0
            if owner == rank() and name != MARKER:
                flush(folder / name)
                records[name] = fingerprint(folder / name)
    except OSError as error:
        return records, f"process {rank()}: {error.strerror or error}"
    return records, None


def _verify(folder: Path, files: dict[str, FileRecord]) -> list[str]:
    """Everything that is wrong with a checkpoint, after a slow shared volume had its time."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    wait = 0.1
    while invisible := _invisible(folder, files):
        if time.monotonic() > deadline:
            problem = (
                f"{len(invisible)} files of other processes, such as {invisible[0]}, are not seen "
                "by the first one: is the run on a volume that all nodes share?"
            )
            return [problem]
        time.sleep(wait)
        wait = min(2 * wait, 5.0)
    return [*find_problems(folder, world_size()), *shard_problems(folder)]


def _invisible(folder: Path, files: dict[str, FileRecord]) -> list[str]:
    seen = list_files(folder)
    return [name for name, record in files.items() if seen.get(name) != record.size]
