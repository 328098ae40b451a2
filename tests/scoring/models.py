"""Tiny models of many architectures, with random weights or trained for a moment."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from multitask.scoring.encode import Encoded
from multitask.scoring.model import LoadedModel
from multitask.scoring.scorer import Scorer

VOCABULARY = 120
END = 1
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_GEMMA = _LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8}
_MIXED = ["sliding_attention", "full_attention"]
_NEOX = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0}

# Configuration class, model class, settings. The prompts have 10 to 29 tokens.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("Llama", "LlamaForCausalLM", _LLAMA),
    "qwen2": ("Qwen2", "Qwen2ForCausalLM", _LLAMA),
    "gpt2": (
        "GPT2",
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **_SPECIAL},
    ),
    "gpt_neox": ("GPTNeoX", "GPTNeoXForCausalLM", _NEOX | _SPECIAL),
    "opt": (
        "OPT",
        "OPTForCausalLM",
        {
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    "bloom": ("Bloom", "BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon-alibi": (
        "Falcon",
        "FalconForCausalLM",
        _NEOX | _SPECIAL | {"alibi": True, "new_decoder_architecture": False},
    ),
    "falcon-rotary": ("Falcon", "FalconForCausalLM", _NEOX | _SPECIAL | {"alibi": False}),
    "mistral-window": ("Mistral", "MistralForCausalLM", _LLAMA | {"sliding_window": 8}),
    "mistral": ("Mistral", "MistralForCausalLM", _LLAMA | {"sliding_window": None}),
    "gemma2": ("Gemma2", "Gemma2ForCausalLM", _GEMMA | {"sliding_window": 8}),
    "gemma3": (
        "Gemma3Text",
        "Gemma3ForCausalLM",
        _GEMMA | {"sliding_window": 8, "layer_types": _MIXED},
    ),
    "gemma3-wide": (
        "Gemma3Text",
        "Gemma3ForCausalLM",
        _GEMMA | {"sliding_window": 128, "layer_types": _MIXED},
    ),
    "phi": ("Phi", "PhiForCausalLM", _NEOX),
    "mamba": (
        "Mamba",
        "MambaForCausalLM",
        {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2},
    ),
    "t5": (
        "T5",
        "T5ForConditionalGeneration",
        {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A model, queries, and what the plain way says of them, shape (queries, labels)."""

    model: Any
    queries: list[Encoded]
    plain: np.ndarray[Any, Any]


def random_queries(count: int = 8, labels: int = 25, seed: int = 0) -> list[Encoded]:
    """Prompts that share nine tokens, and labels of which some begin with others."""
    rng = random.Random(seed)
    answers: list[tuple[int, ...]] = []
    while len(answers) < labels:
        answer = (*(rng.randrange(2, 14) for _ in range(rng.randint(1, 5))), END)
        if answer not in answers:
            answers.append(answer)
    shared = tuple(rng.randrange(2, VOCABULARY) for _ in range(9))
    return [
        Encoded(
            shared + tuple(rng.randrange(2, VOCABULARY) for _ in range(rng.randint(1, 20))),
            tuple(answers),
        )
        for _ in range(count)
    ]


def build(name: str) -> Any:
    """A tiny model with random weights."""
    import torch
    import transformers

    config, model, settings = ARCHITECTURES[name]
    torch.manual_seed(0)
    made = getattr(transformers, f"{config}Config")(vocab_size=VOCABULARY, **settings)
    return getattr(transformers, model)(made).eval()


@cache
def case(name: str, *, trained: bool) -> Case:
    """A case of an architecture; trained means that it gives each query a label of its own."""
    model, queries = build(name), random_queries()
    if trained:
        _train(model, queries)
    plain = [[reference(model, query, i) for i in range(25)] for query in queries]
    return Case(model, queries, np.array(plain))


def reference(model: Any, query: Encoded, label: int) -> float:
    """One forward for one label."""
    import torch

    from multitask.scoring.readers import plain_score

    if not model.config.is_encoder_decoder:
        return plain_score(model, query, label)
    answer = query.answers[label]
    with torch.inference_mode():
        logs = (
            model(
                input_ids=torch.tensor([query.prompt]),
                decoder_input_ids=torch.tensor([(0, *answer[:-1])]),
            )
            .logits[0]
            .log_softmax(-1)
        )
    return float(sum(logs[i, token] for i, token in enumerate(answer)))


def scorer(model: Any, *, token_budget: int | None = None) -> Scorer:
    """A scorer of queries that are tokens already."""
    return Scorer(LoadedModel(model, None, "model"), token_budget=token_budget)


def _train(model: Any, queries: list[Encoded], steps: int = 40) -> None:
    import torch

    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        for number, query in enumerate(queries):
            answer = query.answers[3 * number]
            if model.config.is_encoder_decoder:
                inputs = {
                    "input_ids": torch.tensor([query.prompt]),
                    "labels": torch.tensor([answer]),
                }
            else:
                ids = torch.tensor([query.prompt + answer])
                labels = ids.clone()
                labels[:, : len(query.prompt)] = -100
                inputs = {"input_ids": ids, "labels": labels}
            model(**inputs).loss.backward()
        optimizer.step()
    model.eval()
