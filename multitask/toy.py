"""A toy Llama with random weights and a tokenizer trained on the spot.

It exists so that every command can be run for real (Axolotl, scoring, reports) on two CPU
cores with nothing downloaded. It proves the plumbing; its answers say nothing about quality.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    + ASSISTANT
    + "{{ message['content'] }}"
    + END
    + "{% else %}"
    + USER
    + "{{ message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


@dataclass(frozen=True, slots=True)
class ToySize:
    """Widths of the toy. The defaults give about 2 million parameters with 4,096 tokens.

    Attributes:
        hidden: Width of the residual stream; a multiple of ``heads``.
        layers: Decoder layers.
        heads: Attention heads (no grouping of keys and values).
        vocabulary: Upper bound on the tokenizer's entries, special tokens included.
        context: Longest sequence in tokens.
    """

    hidden: int = 192
    layers: int = 3
    heads: int = 6
    vocabulary: int = 4096
    context: int = 512


def write_toy_model(
    directory: Path, texts: Iterable[str], *, size: ToySize | None = None, seed: int = 0
) -> int:
    """Train a byte-level BPE on ``texts`` and write it with a random Llama to ``directory``.

    Args:
        directory: Where ``config.json``, the weights and the tokenizer go; created.
        texts: What the tokenizer learns its merges from.
        size: Widths; the default is about 2 million parameters.
        seed: Seed of the random weights. The same seed and texts give the same files.

    Returns:
        The number of parameters.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = size or ToySize()
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, vocabulary=size.vocabulary, context=size.context)
    tokenizer.save_pretrained(directory)

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.hidden * 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, context: int = 4096) -> Any:
    """Train a byte-level BPE with a chat template.

    Args:
        texts: What it learns its merges from.
        vocabulary: Upper bound on its entries, special tokens included.
        context: Longest sequence in tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        model_max_length=context,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
