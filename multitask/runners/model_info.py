"""What a runner must know of a model's architecture before the model is there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from multitask.errors import InputError
from multitask.resources import config_names, load_config


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model.

    Attributes:
        family: The file of ``configs/models`` that describes it; None when none does.
        layer_class: Decoder layer class that FSDP wraps; None leaves the choice to accelerate,
            which takes the model's own ``_no_split_modules``.
    """

    family: str | None
    layer_class: str | None


def model_info(model: str, base: Path) -> ModelInfo:
    """Look a model up in ``configs/models``.

    Args:
        model: A Hub id or a path, relative ones taken from ``base``.
        base: The run directory.

    Raises:
        InputError: The local model's config.json cannot be read.
    """
    local_config = base / model / "config.json"
    model_type = _model_type(local_config) if local_config.is_file() else None
    for family in config_names("models"):
        entry = load_config("models", family, key="model")
        if model_type is not None:
            matches = model_type in entry["model_types"]
        else:
            matches = any(fnmatch(model, pattern) for pattern in entry["hub_patterns"])
        if matches:
            return ModelInfo(family=family, layer_class=entry["layer_class"])
    return ModelInfo(family=None, layer_class=None)


def _model_type(config: Path) -> str | None:
    try:
        value = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"not a model configuration ({error})", where=config) from None
    return None if value is None else str(value)
