"""Models: what is known of one before it is there, and how many parameters it has."""

from multitask.models.architectures import known_architectures, shape_of
from multitask.models.family import (
    Checkpoint,
    Family,
    TemplateChoice,
    attention_of,
    families,
    rotary_share,
)
from multitask.models.info import ModelInfo, model_info
from multitask.models.shape import (
    ALL_LINEAR,
    Linear,
    ModelShape,
    adalora_parameters,
    dora_parameters,
    lora_parameters,
)

__all__ = [
    "ALL_LINEAR",
    "Checkpoint",
    "Family",
    "Linear",
    "ModelInfo",
    "ModelShape",
    "TemplateChoice",
    "adalora_parameters",
    "attention_of",
    "dora_parameters",
    "families",
    "known_architectures",
    "lora_parameters",
    "model_info",
    "rotary_share",
    "shape_of",
]
