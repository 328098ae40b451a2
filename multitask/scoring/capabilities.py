"""Which way of reading label trees is right for an architecture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Method(StrEnum):
    """How the tokens of a label tree are put to a model.

    Attributes:
        TREE: All nodes of a query in one sequence after its cached prompt, under a mask that lets
            each see its ancestors alone. Needs attention over explicit positions.
        CACHED: Each path from the prompt in a row of its own, on a copy of the prompt's cache.
        PLAIN: Prompt and path in a row of its own, without any cache. Right for every causal model.
        ENCODER_DECODER: The prompt through the encoder once; each path in a row of the decoder.
    """

    TREE = "tree"
    CACHED = "cached"
    PLAIN = "plain"
    ENCODER_DECODER = "encoder-decoder"


@dataclass(frozen=True)
class Capability:
    """What an architecture allows.

    Attributes:
        method: The fastest method known to be right.
        reason: Why it is not ``TREE``; empty if it is.
        equal_lengths: Prompts of different lengths may not be padded into one batch.
    """

    method: Method
    reason: str = ""
    equal_lengths: bool = False


_ALIBI_MODELS = frozenset({"bloom", "mpt"})
_ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


def capability_of(model: Any, longest: int) -> Capability:
    """Tell which method suits a model, from its configuration.

    Args:
        model: A transformers model.
        longest: Longest prompt with answer, in tokens; sliding windows at least as long do not
            matter.
    """
    whole = model.config
    if getattr(whole, "is_encoder_decoder", False):
        return Capability(Method.ENCODER_DECODER)
    config = whole.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    if getattr(model, "_is_stateful", False) or layers - _ATTENTION_LAYERS:
        return Capability(Method.CACHED, "the model has recurrent layers", equal_lengths=True)
    if config.model_type in _ALIBI_MODELS or getattr(config, "alibi", False):
        return Capability(Method.CACHED, "the model takes positions from the mask (ALiBi)")
    window = _window(config, layers)
    if window is not None and window < longest:
        return Capability(
            Method.CACHED,
            f"the model attends over a window of {window} tokens, shorter than the prompts",
        )
    attention = getattr(config, "_attn_implementation", "eager")
    if attention not in ("sdpa", "eager"):
        return Capability(Method.CACHED, f"the attention {attention!r} takes no mask of its own")
    return Capability(Method.TREE)


def _window(config: Any, layers: set[str]) -> int | None:
    """The shortest window of a layer, None where all layers see everything."""
    if layers and layers == {"full_attention"}:
        return None
    if getattr(config, "use_sliding_window", True) is False:
        return None
    windows = [getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size")]
    return min((int(window) for window in windows if window), default=None)


def position_limit(model: Any) -> int | None:
    """Most tokens that a model with learnt absolute positions can read; None: no hard limit."""
    config = model.config.get_text_config()
    if config.model_type in (
        "gpt2",
        "opt",
        "gpt_bigcode",
        "biogpt",
        "xglm",
        "gpt_neo",
        "openai-gpt",
    ):
        return int(config.max_position_embeddings)
    return None
