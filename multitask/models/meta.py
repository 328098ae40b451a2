"""Shapes read off the model that transformers builds, without memory for its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from multitask.errors import MultitaskError
from multitask.models.shape import Linear, ModelShape
from multitask.quiet import quiet_libraries


def transformers_installed() -> bool:
    """Whether transformers and torch can be imported."""
    return find_spec("transformers") is not None and find_spec("torch") is not None


def meta_model(config: Mapping[str, Any]) -> Any:
    """Build the model that a configuration describes, on the meta device: no weights.

    Args:
        config: The content of config.json.

    Returns:
        A ``PreTrainedModel``.

    Raises:
        MultitaskError: The installed transformers cannot build it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    keys = dict(config)
    model_type = str(keys.pop("model_type", None))
    try:
        model_config = AutoConfig.for_model(model_type, **keys)
        kind = AutoModelForSeq2SeqLM if model_config.is_encoder_decoder else AutoModelForCausalLM
        with torch.device("meta"):
            return kind.from_config(model_config)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise MultitaskError(
            f"transformers cannot build a {model_type!r} model: {first_line}"
        ) from (error)


def meta_layer_class(model: Any) -> str | None:
    """The class that the model names as not to be split: the one FSDP wraps."""
    names = sorted(model._no_split_modules or ())
    return names[0] if len(names) == 1 else None


def meta_shape(model: Any) -> ModelShape:
    """Read the shape off a built model.

    Args:
        model: From :func:`meta_model`.
    """
    import torch

    config = model.config.get_text_config(decoder=True)
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    embeddings = sum(parameter.numel() for parameter in embedding.parameters())
    shared = head is not None and head.weight is embedding.weight
    head_size = 0 if head is None else sum(p.numel() for p in head.parameters())
    own_head = head_size - (embedding.weight.numel() if shared else 0)
    kinds: Counter[tuple[str, int, int, bool]] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            kind = (name.rsplit(".", 1)[-1], module.in_features, module.out_features)
            kinds[(*kind, module.bias is not None)] += 1
    linears = tuple(Linear(n, i, o, count, b) for (n, i, o, b), count in kinds.items())
    total = sum(parameter.numel() for parameter in model.parameters())
    heads = int(config.num_attention_heads)
    hidden = int(config.hidden_size)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "ffn_hidden_size", None)
    inner = inner or max((linear.outputs for linear in linears), default=4 * hidden)
    return ModelShape(
        model_type=str(model.config.model_type),
        hidden_size=hidden,
        layers=int(config.num_hidden_layers),
        heads=heads,
        kv_heads=_kv_heads(config, heads),
        head_dim=int(getattr(config, "head_dim", None) or hidden // heads),
        intermediate_size=int(inner),
        gated=any("gate" in linear.name for linear in linears),
        vocab_size=int(config.vocab_size),
        max_positions=getattr(config, "max_position_embeddings", None),
        linears=linears,
        embeddings=embeddings,
        head=own_head,
        norms=total - embeddings - own_head - sum(linear.parameters for linear in linears),
    )


def _kv_heads(config: Any, heads: int) -> int:
    if config.model_type == "falcon" and not config.new_decoder_architecture:
        return 1 if config.multi_query else heads
    for name in ("num_key_value_heads", "num_kv_heads"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return heads


def shape_by_transformers(config: Mapping[str, Any]) -> tuple[ModelShape, str | None]:
    """Shape and decoder layer class of any model that the installed transformers knows.

    Raises:
        MultitaskError: It cannot be built.
    """
    quiet_libraries()
    model = meta_model(config)
    return meta_shape(model), meta_layer_class(model)
