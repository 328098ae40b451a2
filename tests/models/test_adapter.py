"""Adapters are loaded whole or not at all, and decomposed where that is fast."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from multitask.errors import InputError
from multitask.models.adapter import adapter_names, place_for_decomposition, require_whole

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")


def _model(layers: int = 2, **config: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            vocab_size=32,
            tie_word_embeddings=False,
        )
    )
    usual = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    return peft.get_peft_model(base, peft.LoraConfig(**usual | config))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
    ids=["LoRA", "DoRA", "a head that learns", "embeddings"],
)
def test_what_peft_saves_fits(tmp_path: Path, config: dict[str, Any]) -> None:
    _model(**config).save_pretrained(tmp_path)
    require_whole(_model(**config), tmp_path)


def test_embeddings_that_come_along_are_no_surprise(tmp_path: Path) -> None:
    _model().save_pretrained(tmp_path, save_embedding_layers=True)
    names = adapter_names(tmp_path)
    assert names is not None
    assert any("embed_tokens" in name for name in names)
    require_whole(_model(), tmp_path)


def test_what_is_missing_or_has_no_place_is_named(tmp_path: Path) -> None:
    _model(layers=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"2 of 4 tensors are missing \(.*layers\.1"):
        require_whole(_model(layers=2), tmp_path)
    _model(layers=3).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"2 have no place in the model \(.*layers\.2"):
        require_whole(_model(layers=2), tmp_path)
    _model(use_dora=True).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="lora_magnitude_vector"):
        require_whole(_model(), tmp_path)


def test_a_resume_from_another_adapter_is_refused(tmp_path: Path) -> None:
    """transformers/trainer.py, _load_from_checkpoint, drops what PEFT says of the load."""
    pytest.importorskip("axolotl")
    from multitask.runners.axolotl.trainer import MultitaskTrainer

    _model(layers=1).save_pretrained(tmp_path)
    trainer: Any = SimpleNamespace(model=_model(layers=2))
    with pytest.raises(InputError, match="tensors are missing"):
        MultitaskTrainer._load_from_checkpoint(trainer, str(tmp_path))


class _Weights:
    """A model that notes where it is sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def to(self, device: str) -> None:
        self.sent.append(device)


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ({"peft_init_lora_weights": "pissa"}, ["cuda:1"]),
        ({"peft_init_lora_weights": True}, []),
        ({"peft_init_lora_weights": "pissa", "fsdp_config": {"a": 1}}, []),
        ({"peft_init_lora_weights": "pissa", "deepspeed": "deepspeed.json"}, []),
    ],
)
def test_pissa_decomposes_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], sent: list[str]
) -> None:
    """peft/tuners/lora/layer.py:425, pissa_init, works where the weights lie."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    model = _Weights()
    place_for_decomposition(
        {"fsdp_config": None, "deepspeed": None, "peft_init_lora_weights": None} | keys, model
    )
    assert model.sent == sent
