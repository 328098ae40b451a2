"""Exact parameter counts from a model's config.json, one formula for each architecture.

No library is needed, so that planning works where torch is not. Tests hold every formula against
the model that transformers builds on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from multitask.errors import InputError
from multitask.models.shape import Linear, ModelShape

Config = Mapping[str, Any]


def known_architectures() -> tuple[str, ...]:
    """The values of ``model_type`` that have a formula."""
    return tuple(_FORMULAS)


def shape_of(config: Config, *, where: object = None) -> ModelShape:
    """Read a model's shape from its configuration.

    Args:
        config: The content of config.json, or the part of it that sets sizes.
        where: Where it came from, for messages.

    Raises:
        InputError: The architecture has no formula, or a size is missing.
    """
    model_type = config.get("model_type")
    formula = _FORMULAS.get(str(model_type))
    if formula is None:
        raise InputError(f"no parameter formula for the architecture {model_type!r}", where=where)
    try:
        return formula(config)
    except KeyError as error:
        raise InputError(
            f"a {model_type} configuration needs the key {error.args[0]!r}", where=where
        ) from None


def _get(config: Config, *names: str, default: Any = None) -> Any:
    """The first of several names that is set; KeyError with the first when none is."""
    for name in names:
        if config.get(name) is not None:
            return config[name]
    if default is None:
        raise KeyError(names[0])
    return default


def _decoder(
    config: Config,
    attention: list[Linear],
    mlp: list[Linear],
    *,
    norms: int,
    tied: bool,
    kv_heads: int,
    head_dim: int,
    intermediate: int,
    head_bias: bool = False,
) -> ModelShape:
    """Put a decoder together from one layer's linear layers."""
    hidden = _get(config, "hidden_size", "n_embed")
    layers = _get(config, "num_hidden_layers", "n_layer")
    vocab = _get(config, "vocab_size")
    linears = tuple(
        Linear(one.name, one.inputs, one.outputs, layers, one.bias) for one in (*attention, *mlp)
    )
    # A tied head shares the weights, never the bias.
    head = (0 if tied else vocab * hidden) + (vocab if head_bias else 0)
    return ModelShape(
        model_type=str(config["model_type"]),
        hidden_size=hidden,
        layers=layers,
        heads=_get(config, "num_attention_heads", "n_head"),
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        gated=any("gate" in linear.name for linear in mlp),
        vocab_size=vocab,
        max_positions=config.get("max_position_embeddings"),
        linears=linears,
        embeddings=vocab * hidden,
        head=head,
        norms=norms,
    )


def _llama_like(
    *,
    tied: bool,
    layer_norms: int = 2,
    head_norms: bool = False,
    attention_bias: tuple[bool, bool] | None = None,
    default_head_dim: int | None = None,
) -> Callable[[Config], ModelShape]:
    """RMSNorm, rotary positions, grouped-query attention and a gated MLP.

    Args:
        tied: Whether the head shares the embedding where the configuration does not say.
        layer_norms: Norms of the hidden width in a layer.
        head_norms: Whether queries and keys are normalised per head.
        attention_bias: Biases of q, k, v and of o, where the configuration has no say.
        default_head_dim: Features of a head where it does not say; else hidden / heads.
    """

    def formula(config: Config) -> ModelShape:
        hidden, heads = _get(config, "hidden_size"), _get(config, "num_attention_heads")
        kv_heads = _get(config, "num_key_value_heads", default=heads)
        head_dim = _get(config, "head_dim", default=default_head_dim or hidden // heads)
        inner = _get(config, "intermediate_size")
        in_config = bool(config.get("attention_bias", False))
        qkv_bias, o_bias = attention_bias or (in_config, in_config)
        mlp_bias = bool(config.get("mlp_bias", False))
        attention = [
            Linear("q_proj", hidden, heads * head_dim, bias=qkv_bias),
            Linear("k_proj", hidden, kv_heads * head_dim, bias=qkv_bias),
            Linear("v_proj", hidden, kv_heads * head_dim, bias=qkv_bias),
            Linear("o_proj", heads * head_dim, hidden, bias=o_bias),
        ]
        mlp = [
            Linear("gate_proj", hidden, inner, bias=mlp_bias),
            Linear("up_proj", hidden, inner, bias=mlp_bias),
            Linear("down_proj", inner, hidden, bias=mlp_bias),
        ]
        per_layer = layer_norms * hidden + (2 * head_dim if head_norms else 0)
        return _decoder(
            config,
            attention,
            mlp,
            norms=_get(config, "num_hidden_layers") * per_layer + hidden,
            tied=bool(config.get("tie_word_embeddings", tied)),
            kv_heads=kv_heads,
            head_dim=head_dim,
            intermediate=inner,
        )

    return formula


def _phi(config: Config) -> ModelShape:
    hidden, heads = _get(config, "hidden_size"), _get(config, "num_attention_heads")
    layers, inner = _get(config, "num_hidden_layers"), _get(config, "intermediate_size")
    kv_heads = _get(config, "num_key_value_heads", default=heads)
    head_dim = hidden // heads
    attention = [
        Linear("q_proj", hidden, heads * head_dim, bias=True),
        Linear("k_proj", hidden, kv_heads * head_dim, bias=True),
        Linear("v_proj", hidden, kv_heads * head_dim, bias=True),
        Linear("dense", heads * head_dim, hidden, bias=True),
    ]
    mlp = [Linear("fc1", hidden, inner, bias=True), Linear("fc2", inner, hidden, bias=True)]
    # One LayerNorm a layer: attention and MLP run side by side.
    norms = (layers + 1) * 2 * hidden
    norms += layers * 4 * head_dim if config.get("qk_layernorm") else 0
    return _decoder(
        config,
        attention,
        mlp,
        norms=norms,
        tied=bool(config.get("tie_word_embeddings", False)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=inner,
        head_bias=True,
    )


def _phi3(config: Config) -> ModelShape:
    hidden, heads = _get(config, "hidden_size"), _get(config, "num_attention_heads")
    layers, inner = _get(config, "num_hidden_layers"), _get(config, "intermediate_size")
    kv_heads = _get(config, "num_key_value_heads", default=heads)
    head_dim = _get(config, "head_dim", default=hidden // heads)
    attention = [
        Linear("qkv_proj", hidden, (heads + 2 * kv_heads) * head_dim),
        Linear("o_proj", heads * head_dim, hidden),
    ]
    mlp = [Linear("gate_up_proj", hidden, 2 * inner), Linear("down_proj", inner, hidden)]
    return _decoder(
        config,
        attention,
        mlp,
        norms=(2 * layers + 1) * hidden,
        tied=bool(config.get("tie_word_embeddings", False)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=inner,
    )


def _gpt_block(hidden: int, qkv: int, inner: int, *, bias: tuple[bool, bool]) -> list[list[Linear]]:
    """A fused query-key-value and a plain two-layer MLP; ``bias`` of attention and of the MLP."""
    return [
        [
            Linear("query_key_value", hidden, qkv, bias=bias[0]),
            Linear("dense", hidden, hidden, bias=bias[0]),
        ],
        [
            Linear("dense_h_to_4h", hidden, inner, bias=bias[1]),
            Linear("dense_4h_to_h", inner, hidden, bias=bias[1]),
        ],
    ]


def _bloom(config: Config) -> ModelShape:
    hidden, heads = _get(config, "hidden_size", "n_embed"), _get(config, "n_head")
    layers = _get(config, "n_layer", "num_hidden_layers")
    attention, mlp = _gpt_block(hidden, 3 * hidden, 4 * hidden, bias=(True, True))
    return _decoder(
        {"num_attention_heads": heads, **config},
        attention,
        mlp,
        # Two LayerNorms a layer, one after the embedding and one at the end.
        norms=(2 * layers + 2) * 2 * hidden,
        tied=bool(config.get("tie_word_embeddings", True)),
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate=4 * hidden,
    )


def _falcon(config: Config) -> ModelShape:
    hidden = _get(config, "hidden_size", "n_embed")
    heads = _get(config, "num_attention_heads", "n_head")
    layers = _get(config, "num_hidden_layers", "n_layer")
    inner = _get(config, "ffn_hidden_size", default=4 * hidden)
    new = bool(config.get("new_decoder_architecture", False))
    bias = bool(config.get("bias", False))
    head_dim = hidden // heads
    if new:
        kv_heads = _get(config, "num_kv_heads", "n_head_kv", default=heads)
    else:
        kv_heads = 1 if config.get("multi_query", True) else heads
    attention, mlp = _gpt_block(hidden, (heads + 2 * kv_heads) * head_dim, inner, bias=(bias, bias))
    parallel = bool(config.get("parallel_attn", True))
    norms_in_parallel = config.get("num_ln_in_parallel_attn") or (2 if new else 1)
    layer_norms = 2 if not parallel or norms_in_parallel == 2 else 1
    return _decoder(
        config,
        attention,
        mlp,
        norms=(layer_norms * layers + 1) * 2 * hidden,
        tied=bool(config.get("tie_word_embeddings", True)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=inner,
    )


def _gpt_neox(config: Config) -> ModelShape:
    hidden, heads = _get(config, "hidden_size"), _get(config, "num_attention_heads")
    layers, inner = _get(config, "num_hidden_layers"), _get(config, "intermediate_size")
    bias = bool(config.get("attention_bias", True))
    attention, mlp = _gpt_block(hidden, 3 * hidden, inner, bias=(bias, True))
    return _decoder(
        config,
        attention,
        mlp,
        norms=(2 * layers + 1) * 2 * hidden,
        tied=bool(config.get("tie_word_embeddings", False)),
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate=inner,
    )


def _t5(config: Config) -> ModelShape:
    """Encoder and decoder of T5; the head follows the checkpoint, which T5 1.1 keeps untied.

    transformers 5 ties it whatever the configuration says.
    """
    hidden, inner = _get(config, "d_model"), _get(config, "d_ff")
    heads, head_dim = _get(config, "num_heads"), _get(config, "d_kv")
    encoder = _get(config, "num_layers")
    decoder = _get(config, "num_decoder_layers", default=encoder)
    vocab = _get(config, "vocab_size")
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    attentions, mlps = encoder + 2 * decoder, encoder + decoder  # a decoder layer attends twice
    linears = [
        *(Linear(name, hidden, heads * head_dim, attentions) for name in "qkv"),
        Linear("o", heads * head_dim, hidden, attentions),
        *(Linear(name, hidden, inner, mlps) for name in (("wi_0", "wi_1") if gated else ("wi",))),
        Linear("wo", inner, hidden, mlps),
    ]
    # Relative position biases: one table in each stack.
    positions = 2 * _get(config, "relative_attention_num_buckets", default=32) * heads
    return ModelShape(
        model_type="t5",
        hidden_size=hidden,
        layers=mlps,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        intermediate_size=inner,
        gated=gated,
        vocab_size=vocab,
        max_positions=None,
        linears=tuple(linears),
        embeddings=vocab * hidden,
        head=0 if config.get("tie_word_embeddings", True) else vocab * hidden,
        norms=(attentions + mlps + 2) * hidden + positions,
    )


def _gemma3(config: Config) -> ModelShape:
    """A Gemma 3 text model with a SigLIP vision tower and a projector between them."""
    text = _FORMULAS["gemma3_text"]({"model_type": "gemma3_text", **_get(config, "text_config")})
    vision = _get(config, "vision_config")
    width, inner = _get(vision, "hidden_size"), _get(vision, "intermediate_size")
    patch = _get(vision, "patch_size")
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    tower = _get(vision, "num_hidden_layers") * layer
    tower += (3 * patch * patch + 1) * width  # patch embedding
    tower += (_get(vision, "image_size") // patch) ** 2 * width  # learned positions
    tower += 2 * width  # last LayerNorm
    projector = width * text.hidden_size + width
    return replace(text, model_type="gemma3", frozen=tower + projector)


_FORMULAS: dict[str, Callable[[Config], ModelShape]] = {
    "llama": _llama_like(tied=False),
    "mistral": _llama_like(tied=False, attention_bias=(False, False)),
    "qwen2": _llama_like(tied=False, attention_bias=(True, False)),
    "qwen3": _llama_like(tied=False, head_norms=True, default_head_dim=128),
    "gemma2": _llama_like(tied=True, layer_norms=4, default_head_dim=256),
    "gemma3_text": _llama_like(tied=True, layer_norms=4, head_norms=True, default_head_dim=256),
    "gemma3": _gemma3,
    "phi": _phi,
    "phi3": _phi3,
    "bloom": _bloom,
    "falcon": _falcon,
    "gpt_neox": _gpt_neox,
    "t5": _t5,
}
