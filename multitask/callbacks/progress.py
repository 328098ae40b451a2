"""A training's progress, as events in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from multitask.callbacks.best import public_name
from multitask.environment import environment
from multitask.training.events import write_event


class ProgressCallback(TrainerCallback):
    """Appends what the trainer reports to a file, from the first process only.

    Each line is a JSON object: ``event`` (``start``, ``step``, ``log``, ``save``, ``end``),
    ``time`` in seconds since 1970, ``step``, ``max_steps``, and for ``log`` the ``values``.
    """

    def __init__(self, path: Path) -> None:
        """Write to ``path``."""
        self.path = path

    def _write(self, event: str, state: Any, **more: Any) -> None:
        write_event(self.path, event, state, **more)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the start, the process, and what it is trained with."""
        if state.is_world_process_zero:
            made_with = environment() | {"processes": args.world_size}
            self._write("start", state, pid=os.getpid(), environment=made_with)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record an optimizer step."""
        self._write("step", state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the trainer's numbers."""
        self._write("log", state, values={public_name(k): v for k, v in (logs or {}).items()})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record a checkpoint."""
        self._write("save", state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the end."""
        self._write("end", state)
