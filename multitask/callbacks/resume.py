"""Keeping logs true to the training through restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from multitask.run import write_atomic


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
    """Keep the lines of a log that are not later than a step; none where it starts at 0.

    A last line that was not written whole goes as well.
    """
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    kept = "".join(line for line in whole if step > 0 and json.loads(line)["step"] <= step)
    if kept != text:
        write_atomic(path, kept)
