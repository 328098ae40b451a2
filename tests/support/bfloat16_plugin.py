"""An Axolotl plugin that undoes what ours does for precision: all is bfloat16, as it was loaded."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin


class BFloat16Plugin(BasePlugin):
    """Listed after ours."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Give what learns the precision that Axolotl loads it in."""
        import torch

        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
