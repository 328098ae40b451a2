"""What is known of a model: listed, local, cached, by name, or unknown; inference is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multitask.errors import InputError
from multitask.models import families, model_info

_NOWHERE = Path("/nowhere")
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def _write(folder: Path, config: dict[str, Any], tokenizer: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("model", [i for family in families().values() for i in family.ids])
def test_a_listed_model_is_known_without_a_word(model: str) -> None:
    info = model_info(model, _NOWHERE)
    assert info.shape is not None
    assert info.layer_class
    assert info.notes == ()


@pytest.mark.parametrize(
    ("model", "family", "template", "pad"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3", "tokenizer_default", "<|end_of_text|>"),
        ("meta-llama/Llama-3.1-8B", "llama-3", "alpaca", "<|end_of_text|>"),
        ("meta-llama/Llama-2-7b-hf", "llama-2", "alpaca", "<unk>"),
        ("Qwen/Qwen3-8B", "qwen3", "tokenizer_default", None),
        ("Qwen/Qwen3-8B-Base", "qwen3", "tokenizer_default", None),
        ("tiiuae/falcon-7b", "falcon", "alpaca", "<|endoftext|>"),
    ],
)
def test_template_and_pad_token(model: str, family: str, template: str, pad: str | None) -> None:
    info = model_info(model, _NOWHERE)
    assert (info.family, info.chat_template) == (family, template)
    assert info.special_tokens.get("pad_token") == pad


def test_gated_models_name_the_page_to_visit() -> None:
    gated = model_info("google/gemma-2-9b", _NOWHERE).gated
    assert gated == "https://huggingface.co/google/gemma-2-9b"
    assert model_info("Qwen/Qwen2.5-7B", _NOWHERE).gated is None


def test_the_hub_ignores_case_and_so_do_we() -> None:
    assert model_info("Meta-Llama/llama-2-7b-hf", _NOWHERE).family == "llama-2"


def test_attention_follows_the_machine() -> None:
    llama, bloom = (
        model_info("Qwen/Qwen3-8B", _NOWHERE),
        model_info("bigscience/bloom-560m", _NOWHERE),
    )
    assert llama.attention_on(flash=True) == "flash_attention_2"
    assert llama.attention_on(flash=False) == "sdpa"
    assert bloom.attention_on(flash=True) == "eager"
    gemma = model_info("google/gemma-2-2b", _NOWHERE)
    assert gemma.attention_on(flash=False) == "eager"


def test_an_unlisted_size_of_a_known_family_is_said_to_be_guessed() -> None:
    info = model_info("meta-llama/Llama-3.9-5B-Instruct", _NOWHERE)
    assert (info.family, info.chat_template, info.shape) == ("llama-3", "tokenizer_default", None)
    assert "by its name" in info.notes[0]


def test_an_unknown_model_goes_on_with_a_note() -> None:
    info = model_info("nobody/knows", _NOWHERE)
    assert (info.family, info.layer_class, info.shape) == (None, None, None)
    assert "nobody/knows" in info.notes[0]
    assert not info.packing


def test_a_local_model_is_inferred_and_that_is_said(tmp_path: Path) -> None:
    _write(tmp_path / "m", _LLAMA, {"chat_template": "x", "pad_token": "<pad>"})
    info = model_info("m", tmp_path)
    assert (info.family, info.layer_class) == ("llama", "LlamaDecoderLayer")
    assert info.shape is not None
    assert info.shape.hidden_size == 32
    assert info.chat_template == "tokenizer_default"
    assert "model_type 'llama'" in info.notes[0]
    assert "chat template" in info.notes[1]


def test_a_local_model_without_a_chat_template_takes_the_alpaca_form(tmp_path: Path) -> None:
    _write(tmp_path / "m", _LLAMA, {"pad_token": "<pad>"})
    info = model_info("m", tmp_path)
    assert info.alpaca
    assert any("Alpaca" in note for note in info.notes)


def test_a_chat_template_in_a_file_of_its_own_counts(tmp_path: Path) -> None:
    _write(tmp_path / "m", _LLAMA, {})
    (tmp_path / "m" / "chat_template.jinja").write_text("x")
    assert not model_info("m", tmp_path).alpaca


def test_a_local_copy_is_recognised_by_its_sizes(tmp_path: Path) -> None:
    listed = model_info("meta-llama/Llama-2-13b-hf", _NOWHERE)
    assert listed.config is not None
    _write(tmp_path / "m", dict(listed.config), {})
    info = model_info("m", tmp_path)
    assert (info.family, info.gated) == ("llama-2", None)
    assert info.special_tokens == {"pad_token": "<unk>"}
    assert "meta-llama/Llama-2-13b-hf" in info.notes[0]


def test_an_architecture_without_a_file_is_read_off_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = {**_LLAMA, "model_type": "granite", "num_key_value_heads": 2}
    _write(tmp_path / "m", config, {"chat_template": "x"})
    info = model_info("m", tmp_path)
    assert (info.family, info.layer_class) == (None, "GraniteDecoderLayer")
    assert info.shape is not None
    assert info.shape.kv_heads == 2
    assert info.packing == ()
    assert any("'granite' is not in configs/models" in note for note in info.notes)


def test_sizes_left_to_transformers_defaults_are_said_to_be(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    _write(tmp_path / "m", {"model_type": "llama", "num_hidden_layers": 2}, {})
    info = model_info("m", tmp_path)
    assert info.shape is not None
    assert info.shape.vocab_size == 32_000
    assert any("default is taken" in note for note in info.notes)


def test_an_architecture_nobody_knows_goes_on_with_a_note(tmp_path: Path) -> None:
    _write(tmp_path / "m", {"model_type": "nobody"}, {})
    info = model_info("m", tmp_path)
    assert (info.layer_class, info.shape) == (None, None)
    assert any("'nobody'" in note for note in info.notes)


def test_alibi_keeps_falcon_rw_out_of_the_falcon_file(tmp_path: Path) -> None:
    falcon = model_info("tiiuae/falcon-7b", _NOWHERE).config
    assert falcon is not None
    _write(tmp_path / "m", {**falcon, "alibi": True, "num_hidden_layers": 2}, {})
    info = model_info("m", tmp_path)
    assert (info.family, info.packing, info.attention) == (None, (), ("eager",))


def test_a_model_in_the_hubs_cache_is_read_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--tuned"
    _write(repo / "snapshots" / "abc", _LLAMA, {"chat_template": "x"})
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    info = model_info("someone/tuned", _NOWHERE)
    assert info.layer_class == "LlamaDecoderLayer"
    assert info.shape is not None


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        model_info("m", tmp_path)
