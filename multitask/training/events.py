"""The events of a training: one JSON object a line, appended by its first process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


def write_event(path: Path, event: str, state: Any, **more: Any) -> None:
    """Append an event to a file, from the first process only.

    Args:
        path: The file.
        event: Its name.
        state: The trainer's state.
        more: Further keys of the line.
    """
    if state.is_world_process_zero:
        append_event(path, event, state, **more)


def append_event(path: Path, event: str, state: Any, **more: Any) -> None:
    """Append an event to a file, from any process; see :func:`write_event`."""
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
