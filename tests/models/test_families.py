"""configs/models against the installed transformers, Axolotl and Liger: no claim is stale."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multitask.models import Family, families, model_info, rotary_share
from multitask.models.family import fitting_kernels
from multitask.resources import config_names

_FAMILIES = [pytest.param(family, id=name) for name, family in families().items()]
_TYPES = [
    pytest.param(family, model_type, id=f"{family.name}-{model_type}")
    for family in families().values()
    if family.extends is None
    for model_type in family.model_types
]
_TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_TINY_TEXT = {**_TINY, "head_dim": 8}
_EXTRA: dict[str, dict[str, Any]] = {
    "phi3": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "bloom": {"n_layer": 2, "n_head": 4},
}
_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
_VISION |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def _tiny(model_type: str) -> Any:
    from transformers import AutoConfig

    if model_type == "gemma3":
        keys = {"text_config": _TINY_TEXT, "vision_config": _VISION, "mm_tokens_per_image": 4}
        return AutoConfig.for_model(model_type, **keys)
    return AutoConfig.for_model(model_type, **(_TINY | _EXTRA.get(model_type, {})))


def test_every_file_is_a_family() -> None:
    assert set(families()) == set(config_names("models"))
    assert len(families()) >= 15


def test_no_hub_id_is_listed_twice() -> None:
    ids = [i.lower() for family in families().values() for i in family.ids]
    assert len(ids) == len(set(ids))
    assert len(ids) >= 100


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_listed_id_fits_its_own_patterns_and_no_others(family: Family) -> None:
    for model in family.ids:
        assert [f.name for f in families().values() if f.owns(model)] == [family.name]


@pytest.mark.parametrize(("family", "model_type"), _TYPES)
def test_the_layer_class_is_the_one_transformers_will_not_split(
    family: Family, model_type: str
) -> None:
    pytest.importorskip("transformers")
    module_name = model_type.removesuffix("_text")
    module = importlib.import_module(f"transformers.models.{module_name}.modeling_{module_name}")
    assert hasattr(module, family.layer_class)
    classes = [c for c in vars(module).values() if isinstance(c, type)]
    splits = {name for c in classes for name in (getattr(c, "_no_split_modules", None) or ())}
    assert family.layer_class in splits


@pytest.mark.parametrize(("family", "model_type"), _TYPES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packing_is_allowed_where_packed_rows_do_not_see_each_other(
    family: Family, model_type: str, attention: str
) -> None:
    """What a CPU can measure: with position ids, and no mask, as Axolotl calls it."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    try:
        model = AutoModelForCausalLM.from_config(
            _tiny(model_type), attn_implementation=attention
        ).eval()
    except ValueError:  # transformers has no such attention for it
        assert attention not in family.packing + family.attention
        return
    first, second = torch.randint(3, 64, (1, 7)), torch.randint(3, 64, (1, 5))
    positions = torch.tensor([[*range(7), *range(5)]])
    with torch.no_grad():
        alone = model(input_ids=second).logits
        try:
            both = model(
                input_ids=torch.cat([first, second], 1), position_ids=positions, use_cache=False
            ).logits
        except (TypeError, ValueError):  # BLOOM takes no position ids
            assert attention not in family.packing
            return
    apart = bool(torch.allclose(alone, both[:, 7:], atol=1e-5))
    assert apart == (attention in family.packing)


@pytest.mark.parametrize(("family", "model_type"), _TYPES)
def test_fused_lora_kernels_are_claimed_where_axolotl_can_patch_them_in(
    family: Family, model_type: str, tmp_path: Path
) -> None:
    pytest.importorskip("axolotl")
    from axolotl.monkeypatch.lora_kernels import get_attention_cls_from_config, patch_self_attn_lora
    from axolotl.utils.dict import DictDefault

    _tiny(model_type).save_pretrained(tmp_path)
    cfg = DictDefault({"base_model": str(tmp_path)})
    attention = get_attention_cls_from_config(cfg)
    forward = attention.forward
    try:
        patch_self_attn_lora(cfg)
        possible = True
    except AssertionError:
        possible = False
    finally:  # the patch is process-wide
        attention.forward = forward
        if hasattr(attention, "_original_forward"):
            del attention._original_forward
    assert possible == family.lora_kernels


@pytest.mark.parametrize(("family", "model_type"), _TYPES)
def test_liger_has_the_kernels_that_are_claimed(family: Family, model_type: str) -> None:
    pytest.importorskip("liger_kernel")
    import inspect

    table = importlib.import_module("liger_kernel.transformers.monkey_patch")
    patch = table.MODEL_TYPE_TO_APPLY_LIGER_FN.get(model_type)
    assert (patch is not None) == bool(family.liger)
    if patch is not None:
        has = set(inspect.signature(patch).parameters)
        has |= {"glu_activation"} if has & {"swiglu", "geglu"} else set()
        assert {key.removeprefix("liger_") for key in family.liger} <= has


_ROTARY = """
import json, sys, torch, triton, transformers
from liger_kernel.transformers.rope import liger_rotary_pos_emb
from importlib import import_module

def error(config):
    config = transformers.AutoConfig.for_model(**config)
    module = import_module(type(config).__module__.replace("configuration", "modeling"))
    rotary = next(c for n, c in vars(module).items() if n.endswith("RotaryEmbedding"))(config)
    torch.manual_seed(0)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    q, k = torch.randn(1, 4, 6, width), torch.randn(1, 2, 6, width)
    names = {"layer_type": config.layer_types[0]} if "gemma3" in config.model_type else {}
    cos, sin = rotary(q, torch.arange(6)[None], **names)
    ours = liger_rotary_pos_emb(q.clone(), k.clone(), cos, sin)
    theirs = module.apply_rotary_pos_emb(q, k, cos, sin)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs))

print(json.dumps([error(config) for config in json.loads(sys.argv[1])]))
"""


def _text_config(model_type: str) -> dict[str, Any]:
    config: dict[str, Any] = _tiny(model_type).to_dict()
    text: dict[str, Any] = config.get("text_config", config)
    return text


@pytest.fixture(scope="module")
def rotary_errors() -> dict[str, float]:
    """How far Liger's rotary kernel is from transformers' function, by type of model.

    All in one process, whose Triton interprets.
    """
    pytest.importorskip("liger_kernel")
    pairs = [param.values for param in _TYPES]
    types = [str(name) for family, name in pairs if "liger_rope" in family.liger]
    configs = {name: _text_config(name) for name in dict.fromkeys(types)}
    partial = {"partial_rotary_factor": 0.75, "rope_parameters": None, "hidden_size": 64}
    configs["partial"] = _tiny("phi3").to_dict() | partial
    done = subprocess.run(
        [sys.executable, "-c", _ROTARY, json.dumps(list(configs.values()))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(configs, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("family", "model_type"), _TYPES)
def test_liger_turns_what_the_model_turns(
    family: Family, model_type: str, rotary_errors: dict[str, float]
) -> None:
    """liger_kernel/ops/rope.py turns whole heads; checked with Triton's interpreter."""
    if "liger_rope" not in family.liger:
        pytest.skip("the family has no such kernel")
    assert "liger_rope" in fitting_kernels(family, _text_config(model_type))
    assert rotary_errors[model_type] < 1e-5


def test_liger_turns_too_much_where_rotary_is_partial(rotary_errors: dict[str, float]) -> None:
    info = model_info("microsoft/Phi-4-mini-instruct", Path("/nowhere"))
    assert info.config is not None
    assert rotary_share(info.config) == 0.75
    assert "liger_rope" not in info.liger
    assert "liger_rms_norm" in info.liger
    assert rotary_errors["partial"] > 0.1


@pytest.mark.parametrize(
    "changes",
    [{"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}],
)
def test_a_models_own_config_is_asked_for_partial_rotary(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    for partial in (False, True):
        config = {"model_type": "llama", **_TINY, **(changes if partial else {})}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert ("liger_rope" in model_info(str(tmp_path), tmp_path).liger) is not partial


def test_without_a_config_the_rotary_kernel_stays_off() -> None:
    assert "liger_rope" not in model_info("microsoft/Phi-4-future", Path("/nowhere")).liger


@pytest.mark.parametrize(("family", "model_type"), _TYPES)
def test_cut_cross_entropy_is_claimed_where_axolotl_lists_it(
    family: Family, model_type: str
) -> None:
    axolotl = pytest.importorskip("axolotl")
    readme = Path(axolotl.__path__[0]) / "integrations/cut_cross_entropy/README.md"
    listed = {line[2:].strip() for line in readme.read_text().splitlines() if line[:2] == "- "}
    assert (model_type in listed) == family.cut_cross_entropy


@pytest.mark.parametrize("family", _FAMILIES)
def test_templates_and_attention_are_names_axolotl_has(family: Family) -> None:
    pytest.importorskip("axolotl")
    from axolotl.utils.chat_templates import _CHAT_TEMPLATES
    from axolotl.utils.schemas.enums import CANONICAL_ATTN_IMPLS
    from axolotl.utils.schemas.model import SpecialTokensConfig

    for choice in (family.base, family.chat):
        assert choice.chat_template in {*_CHAT_TEMPLATES, "tokenizer_default"}
        assert set(choice.special_tokens) <= set(SpecialTokensConfig.model_fields)
    assert set(family.attention + family.packing) <= CANONICAL_ATTN_IMPLS


def test_sdpa_drops_gemma_2s_soft_cap_and_so_is_not_listed() -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    config = _tiny("gemma2")
    config.attn_logit_softcapping = 1e-3
    logits = {}
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        with torch.no_grad():
            logits[attention] = model(torch.arange(3, 20)[None]).logits
    assert not torch.allclose(logits["eager"], logits["sdpa"], atol=1e-4)
    assert "sdpa" not in families()["gemma2"].attention


def test_gemma_3s_adapters_go_on_the_text_layers_alone() -> None:
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    entry = families()["gemma3"].checkpoint("google/gemma-3-4b-it")
    assert entry is not None
    model = AutoModelForCausalLM.from_config(_tiny("gemma3"))
    model = get_peft_model(model, LoraConfig(r=2, target_modules=entry.lora_target_modules))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2  # layers, linear layers in each, A and B
    assert all(".language_model.layers." in name for name in trained)


def test_gemma_3_cannot_be_loaded_as_a_text_model_alone(tmp_path: Path) -> None:
    """transformers warns and goes on with random weights: why gemma3.yaml loads the whole model."""
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

    AutoModelForCausalLM.from_config(_tiny("gemma3")).save_pretrained(tmp_path)
    config = Gemma3TextConfig.from_pretrained(tmp_path)
    _, loading = Gemma3ForCausalLM.from_pretrained(
        tmp_path, config=config, output_loading_info=True
    )
    assert len(loading["missing_keys"]) > 20


def test_gpt_neox_needs_its_layers_named_to_keep_the_head_out() -> None:
    pytest.importorskip("bitsandbytes")
    from axolotl.loaders.adapter import find_all_linear_names
    from transformers import AutoModelForCausalLM

    found = find_all_linear_names(AutoModelForCausalLM.from_config(_tiny("gpt_neox")))
    named = families()["gpt-neox"].lora_target_modules
    assert named is not None
    assert set(found) == {*named, "lm_head"}
