"""A small model is of the same architecture, with the same ratios."""

from __future__ import annotations

from typing import Any

import pytest

from multitask.models import families
from multitask.rehearsal.stage import LAYERS, shrunk

_CHECKPOINTS = [
    pytest.param(family, checkpoint, id=(checkpoint.base + checkpoint.chat)[0])
    for family in families().values()
    for checkpoint in family.checkpoints
]


@pytest.mark.parametrize(("family", "checkpoint"), _CHECKPOINTS)
def test_every_shipped_model_shrinks_to_one_that_runs(family: Any, checkpoint: Any) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    keys = shrunk(family.config_of(checkpoint), vocab_size=300)
    model_type = keys.pop("model_type")
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(model_type, **keys)
    )
    layers = [m for m in model.modules() if type(m).__name__ == family.layer_class]
    assert len(layers) == LAYERS
    assert sum(p.numel() for p in model.parameters()) < 2_000_000
    tokens = torch.randint(0, 300, (1, 12))
    assert torch.isfinite(model(input_ids=tokens, labels=tokens).loss)


def test_ratios_are_kept() -> None:
    small = shrunk(
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
        },
        vocab_size=100,
    )
    assert small["num_attention_heads"] / small["num_key_value_heads"] == 4
    assert small["intermediate_size"] / small["hidden_size"] == 3.5
    assert small["hidden_size"] == small["num_attention_heads"] * 16
    assert small["rms_norm_eps"] == 1e-5
    assert small["vocab_size"] == 100
