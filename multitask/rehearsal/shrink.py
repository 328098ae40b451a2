"""A small model of the same architecture: same classes, same ratios, random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAYERS = 2
HEAD_DIM = 16

# Names that architectures give to the same size.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_INNER = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")


def shrunk(config: Mapping[str, Any], *, vocab_size: int) -> dict[str, Any]:
    """Keys of a small config.json.

    Layers become two, heads the fewest that keep the ratio of query to key heads, a head 16
    features, and the MLP keeps its ratio to the hidden size. Everything else (activation, norms,
    positions, windows, tied embeddings) stays, so that the same code runs.

    Args:
        config: The model's own keys.
        vocab_size: Of the tokenizer that is used.
    """
    if isinstance(config.get("text_config"), Mapping):
        config = config["text_config"]
    small = dict(config)
    heads = _value(config, _HEADS) or 1
    kv_heads = _value(config, _KV_HEADS) or heads
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1
    ratio = max(1, min(8, heads // kv_heads))
    small_kv = 2 if ratio <= 2 else 1
    small_heads = small_kv * ratio
    hidden = small_heads * HEAD_DIM
    for names, value in (
        (_LAYERS, LAYERS),
        (_HEADS, small_heads),
        (_KV_HEADS, small_kv),
        (_HIDDEN, hidden),
    ):
        small |= {name: value for name in names if config.get(name) is not None}
    old_hidden, inner = _value(config, _HIDDEN), _value(config, _INNER)
    if inner and old_hidden:
        width = max(8, round(inner / old_hidden * hidden / 8) * 8)
        small |= {name: width for name in _INNER if config.get(name) is not None}
    if config.get("head_dim") is not None:
        small["head_dim"] = HEAD_DIM
    if config.get("query_pre_attn_scalar") is not None:
        small["query_pre_attn_scalar"] = HEAD_DIM
    if isinstance(config.get("layer_types"), list):
        small["layer_types"] = config["layer_types"][:LAYERS]
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(config.get(key), Mapping):
            small[key] = _short_factors(config[key], config)
    small["vocab_size"] = vocab_size
    # Some architectures have token ids beyond a small vocabulary by default.
    small |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    small.pop("quantization_config", None)
    return small


def _value(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((int(config[name]) for name in names if config.get(name) is not None), None)


def _short_factors(rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Long-rope factors are one for each rotated pair of features; keep as many as there are."""
    rotated = int(HEAD_DIM * float(config.get("partial_rotary_factor") or 1.0)) // 2
    return {
        key: value[:rotated] if key.endswith("_factor") and isinstance(value, list) else value
        for key, value in rope.items()
    }
