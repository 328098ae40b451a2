"""What is scored of an answer is what Axolotl trains of it, for every family's chat template.

The oracles are Axolotl's own tokenising strategy and the templates that it ships; the Hub's own
are the same but for dates and tools.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multitask.callbacks.rows import Tokenize
from multitask.errors import MultitaskError
from multitask.models import families, model_info
from multitask.runners.axolotl.align import axolotl_tokenizer, check_turn
from multitask.scoring.encode import Encoder, turn_end

pytest.importorskip("axolotl")

# By family: a model, Axolotl's name of its template, eos, and the template's special tokens.
TEMPLATES = {
    "gemma2": ("google/gemma-2-2b-it", "gemma", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "gemma3": ("google/gemma-3-1b-it", "gemma3", "<eos>", ["<start_of_turn>", "<end_of_turn>"]),
    "llama-3": (
        "meta-llama/Llama-3.1-8B-Instruct",
        "llama3",
        "<|eot_id|>",
        ["<|start_header_id|>", "<|end_header_id|>"],
    ),
    "llama-2": ("meta-llama/Llama-2-7b-chat-hf", "mistral_v1", "</s>", []),
    "mistral": ("mistralai/Mistral-7B-Instruct-v0.3", "mistral_v2v3", "</s>", ["[INST]"]),
    "qwen2": ("Qwen/Qwen2.5-7B-Instruct", "qwen_25", "<|im_end|>", ["<|im_start|>"]),
    "qwen3": ("Qwen/Qwen3-8B", "qwen3", "<|im_end|>", ["<|im_start|>"]),
    "smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "chatml", "<|im_end|>", ["<|im_start|>"]),
    "phi3": (
        "microsoft/Phi-3-mini-4k-instruct",
        "phi_35",
        "<|endoftext|>",
        ["<|user|>", "<|assistant|>", "<|end|>"],
    ),
    "phi-4": (
        "microsoft/phi-4",
        "phi_4",
        "<|endoftext|>",
        ["<|im_start|>", "<|im_sep|>", "<|im_end|>"],
    ),
}
ALPACA = [name for name, family in families().items() if family.base.chat_template == "alpaca"]


def _tokenizer(template: str, eos: str, special: list[str]) -> Any:
    from axolotl.utils.chat_templates import _CHAT_TEMPLATES
    from tokenizers import AddedToken

    from multitask.toy import train_tokenizer

    tokenizer = train_tokenizer(
        ["where is my card?", "card_arrival", "model user"] * 5, vocabulary=400
    )
    # Special, and named by nothing: as Phi-3's <|end|>.
    tokenizer.add_tokens([AddedToken(token, special=True) for token in [*special, eos, "<bos>"]])
    tokenizer.eos_token, tokenizer.bos_token = eos, "<bos>"
    tokenizer.chat_template = _CHAT_TEMPLATES[template]
    return tokenizer


_ROW: Any = {
    "id": "1",
    "messages": [
        {"role": "user", "content": "where is my card?"},
        {"role": "assistant", "content": "card_arrival"},
    ],
}


def _tokenize(tokenizer: Any, eot_tokens: tuple[str, ...]) -> Tokenize:
    """Axolotl's way from a row to tokens and labels."""
    from axolotl.utils.dict import DictDefault

    from multitask.runners.axolotl.file import _dataset

    cfg = DictDefault({"chat_template": "tokenizer_default", "sequence_len": 512})
    if eot_tokens:
        cfg.eot_tokens = list(eot_tokens)
    return axolotl_tokenizer(cfg, DictDefault(_dataset("data/train.jsonl")), tokenizer)


def _check(tokenizer: Any, eot_tokens: tuple[str, ...]) -> None:
    ids, labels = _tokenize(tokenizer, eot_tokens)(_ROW)
    encoded = Encoder(tokenizer).encode("where is my card?", ["card_arrival"])
    (answer,) = encoded.answers
    begin, end = len(encoded.prompt), len(encoded.prompt) + len(answer)
    assert tuple(ids[:end]) == encoded.prompt + answer
    assert labels[begin:end] == list(answer), tokenizer.decode(answer)
    last = max(place for place, label in enumerate(labels) if label != -100)
    assert last == end - 1
    assert all(label == -100 for label in labels[:begin])


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_trained_token_is_the_last_scored_one(name: str) -> None:
    model, template, eos, special = TEMPLATES[name]
    _check(_tokenizer(template, eos, special), model_info(model, Path("/nowhere")).eot_tokens)


def test_every_family_with_a_chat_template_is_looked_at() -> None:
    chat = {f.name for f in families().values() if any(one.chat for one in f.checkpoints)}
    # BLOOMZ, Falcon and XGen have no template of their own; see their files.
    assert chat <= set(TEMPLATES)


@pytest.mark.parametrize("name", ALPACA)
def test_base_models_end_on_their_eos(name: str) -> None:
    assert families()[name].base.eot_tokens == ()
    _check(_tokenizer("alpaca", "</s>", []), ())


def test_without_eot_tokens_gemmas_end_of_turn_is_not_trained() -> None:
    """axolotl/prompt_strategies/chat_template.py:380 warns of it and goes on."""
    tokenizer = _tokenizer(*TEMPLATES["gemma2"][1:])
    _, labels = _tokenize(tokenizer, ())(_ROW)
    assert tokenizer.convert_tokens_to_ids("<end_of_turn>") not in labels
    assert turn_end(tokenizer) == "<end_of_turn>"
    with pytest.raises(MultitaskError, match=r"<end_of_turn>' of the answer .* is not trained"):
        check_turn(_ROW, _tokenize(tokenizer, ()), tokenizer)
    learned = check_turn(_ROW, _tokenize(tokenizer, ("<end_of_turn>",)), tokenizer)
    assert learned == "card_arrival<end_of_turn>"


def test_phi_3s_own_end_of_text_after_the_turn_is_not_scored() -> None:
    tokenizer = _tokenizer(*TEMPLATES["phi3"][1:])
    tokenizer.chat_template += "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    assert turn_end(tokenizer) == "<|end|>"


def test_a_template_without_an_end_of_turn_is_told() -> None:
    tokenizer = _tokenizer("chatml", "</s>", ["<|im_start|>"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "")
    assert turn_end(tokenizer) is None
