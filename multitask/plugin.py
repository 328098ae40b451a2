"""The Axolotl plugin of every run: named in ``axolotl.yaml`` and loaded inside the training.

``BasePlugin`` is part of Axolotl's integrations, which are under the Axolotl Community License.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback

from multitask.run import Run

_PATH_KEYS = ("output_dir", "dataset_prepared_path", "base_model", "deepspeed")
_DATASET_KEYS = ("datasets", "test_datasets")


class MultitaskPlugin(BasePlugin):
    """Anchors a run's paths and records its progress.

    Attributes:
        run: The run directory: the folder of the ``axolotl.yaml`` that was started.
    """

    run: Run

    def register(self, cfg: Any) -> None:
        """Resolve the run's relative paths, so that training can be started from any folder.

        Args:
            cfg: Axolotl's configuration before validation; changed in place.
        """
        self.run = Run(Path(cfg["axolotl_config_path"]).resolve().parent)
        for key in _PATH_KEYS:
            if isinstance(cfg.get(key), str):
                cfg[key] = self._anchor(
                    cfg[key], output=key in ("output_dir", "dataset_prepared_path")
                )
        for key in _DATASET_KEYS:
            for dataset in cfg.get(key) or []:
                dataset["path"] = self._anchor(dataset["path"])

    def _anchor(self, value: str, *, output: bool = False) -> str:
        """A path below the run directory; a Hub id or an absolute path stays as it is."""
        path = self.run.root / value
        return str(path) if output or path.exists() else value

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:  # noqa: ARG002
        """Add the callback that writes ``logs/trainer.jsonl``."""
        return [ProgressCallback(self.run.trainer_events)]


class ProgressCallback(TrainerCallback):
    """Appends what the trainer reports to a file, from the first process only.

    Each line is a JSON object: ``event`` (``start``, ``step``, ``log``, ``save``, ``end``),
    ``time`` in seconds since 1970, ``step``, ``max_steps``, and for ``log`` the ``values``.
    """

    def __init__(self, path: Path) -> None:
        """Write to ``path``."""
        self.path = path

    def _write(self, event: str, state: Any, **more: Any) -> None:
        if not state.is_world_process_zero:
            return
        line = {
            "event": event,
            "time": time.time(),
            "step": state.global_step,
            "max_steps": state.max_steps,
            **more,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")

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
