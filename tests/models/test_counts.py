"""Parameter counts: the formulas against published numbers and against transformers' own models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from multitask.errors import InputError
from multitask.models import (
    Linear,
    adalora_parameters,
    dora_parameters,
    families,
    known_architectures,
    lora_parameters,
    shape_of,
)

# What the Hub's model pages show as the tensors' total (safetensors metadata), each tied tensor
# once; for Pythia the table in EleutherAI/pythia, for BLOOM the model cards, for Open-LLaMA and
# XGen the sum over the tensors of their index files.
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-1b-pt": 999_885_952,
    "google/gemma-3-4b-pt": 4_300_079_472,
    "google/gemma-3-12b-pt": 12_187_325_040,
    "google/gemma-3-27b-pt": 27_432_406_640,
    "microsoft/phi-1_5": 1_418_270_720,
    "microsoft/phi-2": 2_779_683_840,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "bigscience/bloom-560m": 559_214_592,
    "bigscience/bloom-1b1": 1_065_314_304,
    "bigscience/bloom-1b7": 1_722_408_960,
    "bigscience/bloom-3b": 3_002_557_440,
    "bigscience/bloomz-7b1": 7_069_016_064,
    "bigscience/bloom": 176_247_271_424,
    "tiiuae/falcon-7b": 6_921_720_704,
    "tiiuae/falcon-40b": 41_303_293_952,
    "openlm-research/open_llama_3b": 3_426_473_600,
    "openlm-research/open_llama_7b": 6_738_415_616,
    "openlm-research/open_llama_13b": 13_015_864_320,
    "Salesforce/xgen-7b-8k-base": 6_895_702_016,
    "EleutherAI/pythia-70m": 70_426_624,
    "EleutherAI/pythia-160m": 162_322_944,
    "EleutherAI/pythia-410m": 405_334_016,
    "EleutherAI/pythia-1b": 1_011_781_632,
    "EleutherAI/pythia-1.4b": 1_414_647_808,
    "EleutherAI/pythia-2.8b": 2_775_208_960,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "EleutherAI/pythia-12b": 11_846_072_320,
    "EleutherAI/gpt-neox-20b": 20_554_567_680,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
}
FLAN_T5_XXL = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
_CHECKPOINTS = [
    pytest.param(family.config_of(one), id=(*one.base, *one.chat)[0])
    for family in families().values()
    for one in family.checkpoints
]
# Odd sizes, so that exchanged factors are noticed, and the options of each architecture.
_DECODER = {"vocab_size": 104, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3}
_FALCON = {"vocab_size": 104, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
_FALCON |= {"ffn_hidden_size": 88}
_HEADS = {**_DECODER, "num_attention_heads": 6, "num_key_value_heads": 2}
_VISION = {
    "hidden_size": 24,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}
_SMALL: list[dict[str, Any]] = [
    {"model_type": "llama", **_HEADS},
    {"model_type": "llama", **_HEADS, "tie_word_embeddings": True, "head_dim": 10},
    {"model_type": "llama", **_HEADS, "attention_bias": True, "mlp_bias": True},
    {"model_type": "mistral", **_HEADS, "head_dim": 12},
    {"model_type": "qwen2", **_HEADS},
    {"model_type": "qwen3", **_HEADS},
    {"model_type": "qwen3", **_HEADS, "head_dim": 12, "attention_bias": True},
    {"model_type": "gemma2", **_HEADS},
    {"model_type": "gemma3_text", **_HEADS, "head_dim": 12},
    {"model_type": "gemma3", "text_config": {**_HEADS, "head_dim": 12}, "vision_config": _VISION},
    {"model_type": "phi", **_HEADS},
    {"model_type": "phi", **_HEADS, "qk_layernorm": True},
    {"model_type": "phi3", **_HEADS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    {"model_type": "bloom", "vocab_size": 104, "hidden_size": 48, "n_layer": 3, "n_head": 6},
    {"model_type": "falcon", **_FALCON},
    {"model_type": "falcon", **_FALCON, "multi_query": False},
    {"model_type": "falcon", **_FALCON, "parallel_attn": False},
    {"model_type": "falcon", **_FALCON, "bias": True},
    {
        "model_type": "falcon",
        **_FALCON,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "tie_word_embeddings": False,
    },
    {"model_type": "gpt_neox", **_DECODER, "num_attention_heads": 6},
    {"model_type": "gpt_neox", **_DECODER, "num_attention_heads": 6, "attention_bias": False},
    {
        "model_type": "t5",
        "vocab_size": 104,
        "d_model": 48,
        "d_kv": 10,
        "d_ff": 88,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 6,
    },
    {
        "model_type": "t5",
        "vocab_size": 104,
        "d_model": 48,
        "d_kv": 8,
        "d_ff": 88,
        "num_layers": 2,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
    },
]
_IDS = [f"{n}-{one['model_type']}" for n, one in enumerate(_SMALL)]


def _checkpoint(model: str) -> dict[str, Any]:
    for family in families().values():
        entry = family.checkpoint(model)
        if entry is not None:
            return family.config_of(entry)
    raise AssertionError(model)


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_formula_gives_the_published_number(model: str) -> None:
    assert shape_of(_checkpoint(model)).parameters == PUBLISHED[model]


def test_flan_t5_xxl_has_its_published_number() -> None:
    """11,135,332,352, from the Hub's page of google/flan-t5-xxl."""
    assert shape_of(FLAN_T5_XXL).parameters == 11_135_332_352


def test_every_architecture_with_a_formula_is_held_against_transformers() -> None:
    assert {one["model_type"] for one in _SMALL} == set(known_architectures())


@pytest.mark.parametrize("config", _SMALL, ids=_IDS)
def test_a_formula_equals_the_model_transformers_builds(config: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    from multitask.models.meta import meta_model, meta_shape

    ours, theirs = shape_of(config), meta_shape(meta_model(config))
    assert ours.parameters == theirs.parameters
    assert (ours.embeddings, ours.head) == (theirs.embeddings, theirs.head)
    if config["model_type"] not in ("t5", "gemma3"):  # theirs has no notion of two stacks
        assert set(ours.linears) == set(theirs.linears)
        # The order of layers does not matter, and transformers fills in a default for positions.
        same: dict[str, Any] = {"max_positions": None, "linears": ()}
        assert replace(ours, **same) == replace(theirs, **same)


@pytest.mark.parametrize("config", _CHECKPOINTS)
def test_a_listed_model_can_be_rebuilt_with_fewer_layers(config: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    from multitask.models.meta import shape_by_transformers

    layers = {"n_layer" if "n_layer" in config else "num_hidden_layers": 2}
    small = config | layers
    if "text_config" in config:
        small = config | {"text_config": config["text_config"] | layers}
    assert shape_by_transformers(small)[0].parameters == shape_of(small).parameters


def test_adapters_have_the_size_that_peft_gives_them() -> None:
    pytest.importorskip("peft")
    import torch
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    from multitask.models.meta import meta_model

    for config in (_SMALL[4], _SMALL[12], _SMALL[18], _SMALL[19]):
        shape = shape_of(config)
        for targets in (shape.linear_names, shape.linear_names[:2]):
            names, layers = list(targets), shape.targets(targets)
            for kind, expected in (
                (LoraConfig(r=5, target_modules=names), lora_parameters(layers, 5)),
                (LoraConfig(r=5, target_modules=names, use_dora=True), dora_parameters(layers, 5)),
                (
                    AdaLoraConfig(init_r=5, target_r=3, total_step=9, target_modules=names),
                    adalora_parameters(layers, 5),
                ),
            ):
                with torch.device("cpu"):
                    model = get_peft_model(meta_model(config).to_empty(device="cpu"), kind)
                found = sum(p.numel() for p in model.parameters() if p.requires_grad)
                assert found == expected, (config["model_type"], type(kind).__name__, names)


def test_lora_on_flan_t5_xxl_trains_as_many_as_published() -> None:
    """18,874,368 of 11,154,206,720: philschmid.de, "Efficient LLM training with LoRA" (2023)."""
    shape = shape_of(FLAN_T5_XXL)
    trained = lora_parameters(shape.targets(("q", "v")), 16)
    assert trained == 18_874_368
    assert shape.parameters + trained == 11_154_206_720


def test_all_linear_leaves_out_the_head() -> None:
    shape = shape_of(_SMALL[0])
    assert shape.targets() == shape.linears
    assert "lm_head" not in shape.linear_names


def test_an_unknown_target_is_refused_with_the_choice() -> None:
    with pytest.raises(InputError, match=r"'qkv'[\s\S]*q_proj, k_proj"):
        shape_of(_SMALL[0]).targets(("qkv",))


def test_a_missing_size_is_named() -> None:
    config = {key: value for key, value in _SMALL[0].items() if key != "intermediate_size"}
    with pytest.raises(InputError, match="'intermediate_size'"):
        shape_of(config)


def test_a_linear_counts_weights_and_biases() -> None:
    assert Linear("x", 3, 5, count=2, bias=True).parameters == 2 * (3 * 5 + 5)
