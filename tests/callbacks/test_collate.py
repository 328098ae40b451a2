"""Lengths of packed rows and supervised columns, once a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("axolotl")

from multitask.callbacks.loss import (  # noqa: E402
    COLUMNS,
    BatchMetadata,
    flash_lengths,
    reads_lengths,
)

_LENGTHS = (7, 3, 12)


def _rows(*lengths: int) -> list[dict[str, list[int]]]:
    return [
        {
            "input_ids": list(range(3, 3 + n)),
            "labels": [-100] * (n - 2) + [4, 5],
            "position_ids": list(range(n)),
        }
        for n in lengths
    ]


@pytest.fixture
def collator(toy: Path) -> Any:
    """Axolotl's, for packed rows, padded to one length as ``pad_to_sequence_len`` does."""
    from axolotl.utils.collators import V2BatchSamplerDataCollatorForSeq2Seq
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(toy)
    return V2BatchSamplerDataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=32)


def test_lengths_are_those_that_flash_attention_would_derive(
    collator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' ``_flash_attention_forward`` calls its kernel with the same arguments."""
    from transformers import modeling_flash_attention_utils as flash

    calls: list[dict[str, Any]] = []

    def kernel(query: Any, key: Any, value: Any, **more: Any) -> Any:
        calls.append(more)
        return query

    derived: list[int] = []
    prepare = flash.prepare_fa_kwargs_from_position_ids

    def counting(position_ids: Any) -> Any:
        derived.append(1)
        return prepare(position_ids)

    supports = dict.fromkeys(
        ("dropout_p", "window_size", "deterministic", "softcap", "s_aux", "learnable_sink"), False
    ) | {"max_seqlen_q": True, "max_seqlen_k": True}

    def flags(**given: Any) -> dict[str, Any]:
        return flash._process_flash_attention_kwargs(**given, supports_mapping=supports)

    monkeypatch.setattr(
        flash,
        "lazy_import_flash_attention",
        lambda _name: ((None, kernel, None, None, None), flags),
    )
    batch = BatchMetadata(collator, packed_lengths=True, columns=False)([_rows(*_LENGTHS)])
    given = {key: batch[key] for key in batch if key.startswith(("cu_seq", "max_length"))}
    assert set(given) == {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
    monkeypatch.setattr(flash, "prepare_fa_kwargs_from_position_ids", counting)
    states = torch.zeros(1, 32, 2, 8)
    for more in ({}, given):
        flash._flash_attention_forward(
            states, states, states, None, 32, True, position_ids=batch["position_ids"], **more
        )
    own, ours = calls
    assert derived == [1]  # with ours, nothing is derived in the layer
    assert ours["cu_seqlens_q"].tolist() == own["cu_seqlens_q"].tolist() == [0, 7, 10, 22, 32]
    assert ours["cu_seqlens_k"].tolist() == own["cu_seqlens_k"].tolist()
    assert ours["max_seqlen_q"] == own["max_seqlen_q"] == 12
    assert isinstance(ours["max_seqlen_q"], int)  # a tensor would be waited for, in every layer
    assert isinstance(ours["max_seqlen_k"], int)


def test_several_packed_sequences_do_not_see_each_other() -> None:
    """`multipack_real_batches` makes batches of several; transformers reads those as unpacked."""
    positions = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 0, 1]])
    assert flash_lengths(positions)["cu_seq_lens_q"].tolist() == [0, 3, 6, 10, 12]


def test_columns_predict_the_supervised_tokens(collator: Any) -> None:
    batch = BatchMetadata(collator, packed_lengths=False, columns=True)([_rows(*_LENGTHS)])
    labels = batch["labels"][0].tolist()
    expected = [i - 1 for i, label in enumerate(labels) if i and label != -100]
    assert batch[COLUMNS].tolist() == expected == [4, 5, 7, 8, 19, 20]
    assert "cu_seq_lens_q" not in batch


def test_padded_batches_have_no_packed_lengths(toy: Path) -> None:
    from axolotl.utils.collators import DataCollatorForSeq2Seq
    from transformers import AutoTokenizer

    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in _rows(5, 9)]
    inner = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(toy))
    batch = BatchMetadata(inner, packed_lengths=True, columns=True)(rows)
    assert "cu_seq_lens_q" not in batch
    assert batch[COLUMNS].tolist() == [2, 3, 6, 7]


def _model(family: str, attention: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 9}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    model.config._attn_implementation_internal = attention
    return model


@pytest.mark.parametrize(
    ("family", "attention", "reads"),
    [
        ("llama", "flash_attention_2", True),
        ("llama", "kernels-community/flash-attn2", True),
        ("llama", "flash_attention_3", True),
        ("qwen3", "flash_attention_2", True),
        ("gemma2", "flash_attention_2", True),
        ("llama", "sdpa", False),
        ("llama", "flex_attention", False),
    ],
)
def test_only_flash_attention_gets_them(family: str, attention: str, reads: bool) -> None:
    assert reads_lengths(_model(family, attention)) is reads


def test_a_model_whose_attention_takes_no_further_keywords_gets_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _model("llama", "flash_attention_2")
    attention = type(model.model.layers[0].self_attn)
    monkeypatch.setattr(attention, "forward", lambda self, hidden_states: hidden_states)
    assert not reads_lengths(model)
