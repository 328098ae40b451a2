"""A training's progress, as events in a file."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from multitask.callbacks.best import public_name
from multitask.environment import environment
from multitask.training.events import write_event
from multitask.training.progress import Phase, own_progress_file

STEP_SECONDS = 5.0


class ProgressCallback(TrainerCallback):
    """Appends what the trainer reports to a file, and tells this machine's supervisor each step.

    Each line is a JSON object: ``event`` (``start``, ``step``, ``log``, ``save``, ``end``),
    ``time`` in seconds since 1970, ``step``, ``max_steps``, and for ``log`` the ``values``. The
    file is on a volume that nodes may share, so that a ``step`` is written every few seconds only.
    """

    def __init__(self, path: Path, *, seconds: float = STEP_SECONDS) -> None:
        """Write to ``path``, from the first process only; a step at most every ``seconds``."""
        self.path = path
        self._seconds = seconds
        self._written = -math.inf
        self._local = own_progress_file()
        self._pausing = False

    def _tell(self, state: Any, phase: Phase) -> None:
        if self._local is not None:
            self._local.tell(state.global_step, phase)
        self._pausing = phase == "pausing"

    def _write(self, event: str, state: Any, **more: Any) -> None:
        write_event(self.path, event, state, **more)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the start, the process, and what it is trained with."""
        if state.is_world_process_zero:
            made_with = environment() | {"processes": args.world_size}
            self._write("start", state, pid=os.getpid(), environment=made_with)
        self._tell(state, "starting")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record an optimizer step; what follows it may be an evaluation or a save."""
        self._tell(state, "pausing" if _pauses(control) else "training")
        now = time.monotonic()
        if now - self._written >= self._seconds or state.global_step >= state.max_steps:
            self._written = now
            self._write("step", state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Tell of an evaluation or a save that belongs to no step."""
        if _pauses(control):
            self._tell(state, "pausing")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Tell that an evaluation or a save is over."""
        if self._pausing:
            self._tell(state, "training")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the trainer's numbers."""
        self._write("log", state, values={public_name(k): v for k, v in (logs or {}).items()})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record a checkpoint."""
        self._write("save", state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the end; writing the final model may take long."""
        self._tell(state, "ended")
        self._write("end", state)


def _pauses(control: Any) -> bool:
    return bool(control.should_evaluate or control.should_save)
