"""A configuration together with the hardware it is meant for, as the checks see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multitask.cluster import Method
from multitask.estimate import Plan as EstimatePlan
from multitask.models import ModelInfo

LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
"""Axolotl's fused LoRA kernels, which turn themselves on unless one of these keys is given."""


def number_of(value: Any) -> float | None:
    """A value as the number that pydantic takes it for; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Plan:
    """A configuration and where it is to run.

    Attributes:
        config: The whole Axolotl configuration.
        on_cpu: Whether the training has no GPU.
        world_size: Processes that train together.
        compute_capability: As CUDA names it, ``sm_80``; None when not known.
        model_type: The model's ``model_type`` in its config.json; None when not known.
        model: What else is known of the model; None for nothing.
        method: What learns, as the spec chose it; None when not known.
        own: Top-level keys that the user wrote.
        rows: Rows in one pass over the mixture; None before the data is read.
        longest: Tokens of the longest row; None likewise.
        sequences: Sequences in one pass, several rows in each where they are packed.
        tokens_per_row: Mean tokens of a row.
        estimate: What the plan's own estimate was made from; None when sizes are not known.
    """

    config: dict[str, Any]
    on_cpu: bool
    world_size: int
    compute_capability: str | None = None
    model_type: str | None = None
    model: ModelInfo | None = None
    method: Method | None = None
    own: frozenset[str] = frozenset()
    rows: int | None = None
    longest: int | None = None
    sequences: float | None = None
    tokens_per_row: float | None = None
    estimate: EstimatePlan | None = None

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the whole run, as the final configuration has them."""
        most = number_of(self.get("max_steps"))
        if most is not None and most >= 1:
            return int(most)
        keys = ("micro_batch_size", "gradient_accumulation_steps", "num_epochs")
        micro, accumulation, epochs = (number_of(self.get(key)) or 1.0 for key in keys)
        if self.sequences is None or not 0 < micro * accumulation * epochs < math.inf:
            return None
        return max(1, math.ceil(self.sequences / (self.world_size * micro * accumulation) * epochs))

    def get(self, key: str) -> Any:
        """A top-level value, None when unset."""
        return self.config.get(key)

    @property
    def fsdp(self) -> dict[str, Any] | None:
        """FSDP's section with keys freed of their old prefix; None without FSDP."""
        section = self.config.get("fsdp_config")
        if isinstance(section, dict) and section:
            return {
                str(key).removeprefix("fsdp_") if key != "fsdp_version" else key: value
                for key, value in section.items()
            }
        return {} if self.config.get("fsdp") else None

    @property
    def fsdp2(self) -> bool:
        """Whether FSDP is on in version 2; Axolotl takes 1 where none is given."""
        section = self.fsdp
        if section is None:
            return False
        inner = section.get("fsdp_version") or section.get("version")
        return str(self.get("fsdp_version") or inner) == "2"

    @property
    def flash(self) -> bool:
        """Whether attention is one of the flash kernels."""
        name = str(self.get("attn_implementation") or "")
        return "flash" in name or bool(self.get("flash_attention"))

    @property
    def hopper(self) -> bool:
        """Whether the GPU is sm_90 or newer."""
        digits = (self.compute_capability or "").removeprefix("sm_")
        return digits.isdigit() and int(digits) >= 90

    def plugin(self, name: str) -> bool:
        """Whether a plugin of this class name is loaded."""
        plugins = self.config.get("plugins")
        listed = plugins if isinstance(plugins, list) else []
        return any(str(plugin).rpartition(".")[2] == name for plugin in listed)

    def datasets(self, key: str) -> list[dict[str, Any]]:
        """The entries of ``datasets``, ``test_datasets`` or ``pretraining_dataset``."""
        value = self.get(key)
        listed = value if isinstance(value, list) else [value] if value else []
        return [dataset for dataset in listed if isinstance(dataset, dict)]

    @property
    def sharded(self) -> bool:
        """Whether FSDP saves shards; accelerate does by default in version 2."""
        given = (self.fsdp or {}).get("state_dict_type")
        return given == "SHARDED_STATE_DICT" or (given is None and self.fsdp2)

    def section(self, key: str) -> Mapping[str, Any]:
        """A nested mapping; empty when unset or of another type."""
        value = self.get(key)
        return value if isinstance(value, dict) else {}
