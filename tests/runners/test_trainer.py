"""Axolotl's trainer with the loss over answers makes the same steps as without it."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("axolotl")

_ROWS, _VOCABULARY, _LENGTH = 48, 50, 48


def _dataset() -> Any:
    """Rows of 8 to 20 tokens of which the last one to six are supervised."""
    from datasets import Dataset

    generator = torch.Generator().manual_seed(3)

    def draw(low: int, high: int, *shape: int) -> Any:
        return torch.randint(low, high, shape or (1,), generator=generator).tolist()

    rows = []
    for _ in range(_ROWS):
        (length,), (answer,) = draw(8, 21), draw(1, 7)
        ids = draw(3, _VOCABULARY, length)
        labels = [-100] * (length - answer) + ids[-answer:]
        row = {"input_ids": ids, "labels": labels, "attention_mask": [1] * length}
        rows.append(row | {"position_ids": list(range(length)), "length": length})
    return Dataset.from_list(rows)


def _train(toy: Path, folder: Path, *, packed: bool, enabled: bool) -> tuple[list[float], Any]:
    """Three optimizer steps of two micro batches each: the logged losses, and the weights."""
    from axolotl.core.training_args import AxolotlTrainingArguments
    from axolotl.monkeypatch.data.batch_dataset_fetcher import apply_multipack_dataloader_patch
    from axolotl.utils.collators import (
        DataCollatorForSeq2Seq,
        V2BatchSamplerDataCollatorForSeq2Seq,
    )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from multitask.callbacks.loss import BatchMetadata
    from multitask.runners.axolotl.trainer import MultitaskTrainer

    arguments = AxolotlTrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=3, gradient_accumulation_steps=2,
        per_device_train_batch_size=1 if packed else 4, learning_rate=0.5, logging_steps=1,
        optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no",
        report_to=[], seed=1, sample_packing=packed, max_seq_length=_LENGTH, bf16=False,
        sample_packing_drop_attention_mask=packed, remove_unused_columns=False,
        sample_packing_sequentially=True, dataset_num_proc=1, dataloader_num_workers=0,
        sample_packing_bin_size=10, sample_packing_group_size=100,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(toy)
    collator: Any = DataCollatorForSeq2Seq(tokenizer)
    dataset = _dataset()
    if packed:
        apply_multipack_dataloader_patch()
        collator = V2BatchSamplerDataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=_LENGTH)
    else:
        dataset = dataset.remove_columns(["position_ids", "length"])
    if enabled:
        collator = BatchMetadata(collator, packed_lengths=False, columns=True)
    trainer = MultitaskTrainer(
        model=AutoModelForCausalLM.from_pretrained(toy, attn_implementation="sdpa"),
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        eval_data_collator=collator,
        processing_class=tokenizer,
    )
    trainer.over_answers = enabled
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def _rank(rank: int, world: int, port: int, toy: Path, folder: Path, packed: bool) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"ACCELERATE_USE_CPU": "true"}
    found = [_train(toy, folder, packed=packed, enabled=enabled) for enabled in (False, True)]
    if rank == 0:
        torch.save(found, folder / "found.pt")
    if world > 1:
        torch.distributed.barrier()
    os._exit(0)  # what pytest and gloo have open is not ours to close


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_steps_with_the_loss_over_answers(
    toy: Path, tmp_path: Path, packed: bool, world: int
) -> None:
    import axolotl.core.training_args
    import axolotl.utils.collators  # noqa: F401  # before the forks

    import multitask.runners.axolotl.trainer  # noqa: F401

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=_rank, args=(rank, world, port, toy, tmp_path, packed))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    (losses, weights), (ours, our_weights) = torch.load(tmp_path / "found.pt")
    assert len(losses) == 3
    assert losses[0] != losses[2]
    assert ours == pytest.approx(losses, rel=1e-6)
    for name, expected in weights.items():
        assert torch.allclose(our_weights[name], expected, atol=1e-6), name
