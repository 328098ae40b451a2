"""A training's progress, as events in a file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


def write_event(path: Path, event: str, state: Any, **more: Any) -> None:
    """Append an event to a file, from the first process only.

    Args:
        path: The file.
        event: Its name.
        state: The trainer's state.
        more: Further keys of the line.
    """
    if not state.is_world_process_zero:
        return
    line = {
        "event": event,
        "time": time.time(),
        "step": state.global_step,
        "max_steps": state.max_steps,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        # A process that was killed while it wrote leaves half a line.
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(line, default=str).encode() + b"\n")


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
        """Record the start and the process."""
        self._write("start", state, pid=os.getpid())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record an optimizer step."""
        self._write("step", state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the trainer's numbers."""
        self._write("log", state, values=logs or {})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record a checkpoint."""
        self._write("save", state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record the end."""
        self._write("end", state)
