"""Loading: what is refused, adapters, precisions, encoder-decoders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from multitask.errors import InputError
from multitask.scoring.encode import Encoder, PairEncoder
from multitask.scoring.model import load_model
from multitask.scoring.scorer import Request, Scorer
from tests.scoring.models import build, reference, scorer

torch = pytest.importorskip("torch")


def test_a_folder_without_a_tokenizer_is_refused(toy: Path, tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        shutil.copy(toy / file, tmp_path)
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("base", ["./gone", "/gone/model"])
def test_an_adapter_whose_base_is_gone_is_refused(toy: Path, tmp_path: Path, base: str) -> None:
    shutil.copy(toy / "tokenizer.json", tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    with pytest.raises(InputError, match=r"base model .* is not there"):
        load_model(str(tmp_path))


def test_an_adapter_is_merged_into_its_base(toy: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    loaded = load_model(str(toy))
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(loaded.model, config).eval()
    adapted.peft_config["default"].base_model_name_or_path = str(toy)
    query = Encoder(loaded.tokenizer).encode("x", ["card", "lost"])
    adapted.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    merged = load_model(str(tmp_path))
    models = (merged.model, adapted.get_base_model(), load_model(str(toy)).model)
    scores, beside, base = (scorer(m).score_tokens([query]).log_probs[0] for m in models)
    assert scores == pytest.approx(beside, abs=1e-5)
    assert scores != pytest.approx(base, abs=1e-4)


def test_gemma_2_is_scored_with_its_soft_cap(toy: Path, tmp_path: Path) -> None:
    """transformers would load sdpa, which drops `softcap` (integrations/sdpa_attention.py).

    The oracle is transformers' own eager attention, without a cache.
    """
    import transformers

    shutil.copytree(toy, tmp_path / "model")
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, query_pre_attn_scalar=8,
        attn_logit_softcapping=1e-3,
    )  # fmt: skip
    transformers.Gemma2ForCausalLM(config).save_pretrained(tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"))
    query = Encoder(loaded.tokenizer).encode("where is it?", ["card", "lost", "d_arrival"])
    scores = scorer(loaded.model).score_tokens([query]).log_probs[0]
    eager = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", attn_implementation="eager"
    )
    right = [reference(eager, query, label) for label in range(3)]
    assert scores == pytest.approx(right, abs=1e-5)
    sdpa = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", attn_implementation="sdpa"
    )
    wrong = [reference(sdpa, query, label) for label in range(3)]
    assert right != pytest.approx(wrong, abs=1e-3)  # else this test would show nothing


@pytest.mark.parametrize(
    ("rename", "what"),
    [
        # What accelerate's and Axolotl's activation checkpointing under FSDP2 made of the names.
        (
            lambda name: name.replace("self_attn.", "_checkpoint_wrapped_module.self_attn."),
            "4 of 4",
        ),
        (lambda name: name if "layers.0" in name else None, "2 of 4 tensors are missing"),
    ],
    ids=["other names", "a layer less"],
)
def test_an_adapter_that_is_not_loaded_whole_is_refused(
    toy: Path, tmp_path: Path, rename: Any, what: str
) -> None:
    """PEFT only warns (peft/peft_model.py:649-670), and the base would be scored for it."""
    peft = pytest.importorskip("peft")
    from safetensors.torch import load_file, save_file

    loaded = load_model(str(toy))
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    adapted = peft.get_peft_model(loaded.model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(toy)
    adapted.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = {rename(name): tensor for name, tensor in load_file(file).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name}, file)
    with pytest.raises(InputError, match=what):
        load_model(str(tmp_path))


def test_weights_are_loaded_in_the_precision_asked_for(toy: Path) -> None:
    assert load_model(str(toy), dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        load_model(str(toy), dtype="bfloat")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_quantisation_without_a_gpu_is_refused(toy: Path) -> None:
    with pytest.raises(InputError, match="need a GPU"):
        load_model(str(toy), quantisation="4bit")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bitsandbytes needs a GPU")
@pytest.mark.parametrize("quantisation", ["4bit", "8bit"])
def test_quantised_models_are_scored(toy: Path, quantisation: Any) -> None:
    loaded = load_model(str(toy), quantisation=quantisation)
    scores = Scorer(loaded).score([Request("1", "x", ("card", "lost"))])
    assert scores.best[0] in (0, 1)


def test_weights_that_do_not_fit_their_config_are_refused(toy: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "no-such-model"}))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(str(folder))


def test_an_encoder_decoder_is_loaded_scored_and_generates(toy: Path, tmp_path: Path) -> None:
    tokenizer = load_model(str(toy)).tokenizer
    model = build("t5")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert isinstance(loaded.encoder(), PairEncoder)
    labels = ("card", "lost")
    requests = [Request(prompt, prompt, labels) for prompt in ("where is my card?", "x")]
    one = Scorer(loaded)
    scores, queries = one.score(requests), loaded.encoder().encode_all(["x"], labels)
    right = [reference(loaded.model, queries[0], i) for i in (0, 1)]
    assert scores.log_probs[1] == pytest.approx(right, abs=1e-5)
    assert len(one.generate(requests, max_new_tokens=3).texts) == 2


def test_generated_texts_do_not_depend_on_the_batch(toy: Path) -> None:
    loaded = load_model(str(toy))
    requests = [Request(text, text) for text in ("x", "where is my card?", "?")]
    together = Scorer(loaded).generate(requests, max_new_tokens=5).texts
    assert together == Scorer(loaded, token_budget=1).generate(requests, max_new_tokens=5).texts
