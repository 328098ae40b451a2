"""A training's progress, as events in a file, and logs that stay true through restarts."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from multitask.callbacks.selection import public_name
from multitask.environment import environment
from multitask.run import write_atomic
from multitask.training.progress import Phase, own_progress_file, write_event

STEP_SECONDS = 5.0


class ProgressCallback(TrainerCallback):
    """Appends what the trainer reports to a file, and tells this machine's supervisor each step.

    Each line is a JSON object: ``event`` (``start``, ``step``, ``log``, ``save``, ``end``),
    ``time`` in seconds since 1970, ``step``, ``max_steps``, and for ``log`` the ``values``. The
    file is on a volume that nodes may share, so that a ``step`` is written every few seconds only.
    """

    def __init__(self, path: Path, *, seconds: float = STEP_SECONDS) -> None:
        """Write to ``path``, from the first process only; a step at most every ``seconds``."""
        self.path, self._seconds = path, seconds
        self._written = -math.inf
        self._local = own_progress_file()
        self._phase: Phase = "starting"

    def _tell(self, state: Any, phase: Phase) -> None:
        if self._local is not None:
            self._local.tell(state.global_step, phase)
        self._phase = phase

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the start, the process, and what it is trained with."""
        if state.is_world_process_zero:
            made_with = environment() | {"processes": args.world_size}
            write_event(self.path, "start", state, pid=os.getpid(), environment=made_with)
        self._tell(state, "starting")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record an optimizer step; what follows it may be an evaluation or a save."""
        self._tell(state, "pausing" if _pauses(control) else "training")
        now = time.monotonic()
        if now - self._written >= self._seconds or state.global_step >= state.max_steps:
            self._written = now
            write_event(self.path, "step", state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Tell of an evaluation or a save that belongs to no step."""
        if _pauses(control):
            self._tell(state, "pausing")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Tell that an evaluation or a save is over."""
        if self._phase == "pausing":
            self._tell(state, "training")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the trainer's numbers."""
        values = {public_name(k): v for k, v in (logs or {}).items()}
        write_event(self.path, "log", state, values=values)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record a checkpoint."""
        write_event(self.path, "save", state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the end; writing the final model may take long."""
        self._tell(state, "ended")
        write_event(self.path, "end", state)


def _pauses(control: Any) -> bool:
    return bool(control.should_evaluate or control.should_save)


class ResumeCallback(TrainerCallback):
    """Drops from logs what a resumed training does again."""

    def __init__(self, *logs: Path) -> None:
        """Keep ``logs``; they have one JSON object a line, with its ``step``."""
        self._logs = logs

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Forget lines of steps that come again."""
        if state.is_world_process_zero:
            for path in self._logs:
                drop_later(path, state.global_step)


def drop_later(path: Path, step: int) -> None:
    """Keep the whole lines of a log that are not later than a step; none where it starts at 0."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    kept = "".join(line for line in whole if step > 0 and json.loads(line)["step"] <= step)
    if kept != text:
        write_atomic(path, kept)
