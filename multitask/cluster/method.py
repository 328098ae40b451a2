"""Fine-tuning methods: which weights learn, and what goes with that."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from multitask.resources import load_config
from multitask.task_spec import StrictModel

# AdaLoRA's ranks start half as high again as they end on average, as in its paper (12 to 8).
_ADALORA_START = 1.5


def adalora_start_rank(mean_rank: int) -> int:
    """The rank that AdaLoRA starts with, from the mean rank that it ends with."""
    return round(_ADALORA_START * mean_rank)


class Method(StrictModel):
    """A file of ``configs/methods``.

    Attributes:
        name: The file's name.
        description: One line for people.
        learning_rate: Peak learning rate, unless the spec sets one.
        shardings: The shardings that it works with; None for all.
        axolotl: Axolotl's keys for it.
    """

    name: str
    description: str
    learning_rate: Annotated[float, Field(gt=0)]
    shardings: tuple[str, ...] | None = None
    axolotl: dict[str, Any]

    @property
    def is_adapter(self) -> bool:
        """Whether small matrices learn beside a frozen base."""
        return "adapter" in self.axolotl

    @property
    def base_bits(self) -> int:
        """Bits per weight of the base model while training."""
        if self.axolotl.get("load_in_4bit"):
            return 4
        return 8 if self.axolotl.get("load_in_8bit") else 16


def load_method(name: str) -> Method:
    """Read a shipped method.

    Raises:
        InputError: There is none of that name.
    """
    return Method(name=name, **load_config("methods", name, key="method"))
