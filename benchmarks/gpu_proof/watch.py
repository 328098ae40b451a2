"""A plugin for Axolotl that notes when each optimizer step ended."""

from __future__ import annotations

import time
from typing import Any

from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback

STEPS: list[float] = []
"""Seconds of a clock at the start and after each optimizer step of this process."""


class _Watch(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        STEPS.append(_now())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        STEPS.append(_now())


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class WatchPlugin(BasePlugin):
    """Brings the callback."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:
        return [_Watch()]
