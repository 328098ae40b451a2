"""Samples are recognised in batches as Axolotl makes them, packed or padded."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from datasets import Dataset  # noqa: E402

from multitask.callbacks.balance import SampleTable  # noqa: E402
from multitask.runners.axolotl.validate import axolotl_installed  # noqa: E402

needs_axolotl = pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed")


def _samples(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    draw = random.Random(seed)
    samples = []
    for _ in range(count):
        ids = [draw.randrange(50) for _ in range(draw.randrange(3, 12))]
        answer = draw.randrange(1, len(ids))
        samples.append({"input_ids": ids, "labels": [-100] * (len(ids) - answer) + ids[-answer:]})
    return samples


@pytest.fixture
def samples() -> list[dict[str, list[int]]]:
    return _samples(300)


@pytest.fixture
def table(samples: list[dict[str, list[int]]]) -> SampleTable:
    tasks = np.arange(len(samples)) % 3
    return SampleTable.build(Dataset.from_list(samples), tasks, 3)


def _packed(chosen: list[dict[str, list[int]]], length: int, toy: Path) -> dict[str, Any]:
    """One packed row, made and padded to ``length`` by Axolotl's own collator."""
    from axolotl.utils.collators import V2BatchSamplerDataCollatorForSeq2Seq
    from axolotl.utils.trainer import add_position_ids
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(toy)
    collate = V2BatchSamplerDataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=length)
    samples = [
        add_position_ids(sample | {"attention_mask": [1] * len(sample["input_ids"])})
        for sample in chosen
    ]
    return dict(collate([samples]))


def _padded(chosen: list[dict[str, list[int]]], side: str) -> dict[str, Any]:
    width = max(len(sample["input_ids"]) for sample in chosen) + 2
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for sample in chosen:
        length = len(sample["input_ids"])
        for key, filler in (("input_ids", 0), ("labels", -100), ("attention_mask", 0)):
            values = sample.get(key, [1] * length)
            empty = [filler] * (width - length)
            columns[key].append(values + empty if side == "right" else empty + values)
    return {key: torch.tensor(values) for key, values in columns.items()}


@needs_axolotl
@pytest.mark.parametrize("length", [1, 64])
def test_packed_samples_get_their_tasks(
    samples: list[dict[str, list[int]]], table: SampleTable, length: int, toy: Path
) -> None:
    numbers = [5, 17, 3, 290, 6]
    chosen = [samples[i] for i in numbers]
    tasks, rows = table.tasks_of(_packed(chosen, length, toy))
    expected = [i % 3 for i in numbers for _ in samples[i]["input_ids"]]
    assert tasks[0, : len(expected)].tolist() == expected
    assert rows.tolist() == [
        np.bincount([i % 3 for i in numbers], minlength=4)[t] for t in range(4)
    ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_samples_get_their_tasks(
    samples: list[dict[str, list[int]]], table: SampleTable, side: str
) -> None:
    numbers = [5, 17, 3, 290, 6]
    tasks, rows = table.tasks_of(_padded([samples[i] for i in numbers], side))
    assert tasks[:, 0].tolist() == tasks[:, -1].tolist() == [i % 3 for i in numbers]
    assert int(rows.sum()) == len(numbers)


def test_a_strange_sample_is_unknown(table: SampleTable) -> None:
    tasks, rows = table.tasks_of(_padded(_samples(4, seed=9), "right"))
    assert set(tasks.flatten().tolist()) == {3}
    assert rows.tolist() == [0, 0, 0, 4]


def test_one_token_more_or_elsewhere_is_another_sample(
    samples: list[dict[str, list[int]]], table: SampleTable
) -> None:
    sample = next(s for s in samples if s["input_ids"][0] != s["input_ids"][1])
    swapped = [sample["input_ids"][1], sample["input_ids"][0], *sample["input_ids"][2:]]
    for ids in (swapped, [*sample["input_ids"], 0], sample["input_ids"][:-1]):
        changed = {"input_ids": ids, "labels": [-100, *ids[1:]]}
        tasks, _ = table.tasks_of(_padded([changed], "right"))
        assert set(tasks.flatten().tolist()) == {3}


def test_what_two_tasks_share_belongs_to_neither() -> None:
    row = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}
    other = {"input_ids": [4, 5], "labels": [-100, 5]}
    dataset = Dataset.from_list([row, other, row, row])
    table = SampleTable.build(dataset, np.array([0, 0, 1, 1]), 2)
    tasks, _ = table.tasks_of(_padded([row, other], "right"))
    assert tasks[:, 0].tolist() == [2, 0]


def test_a_shuffled_dataset_is_read_in_its_order(samples: list[dict[str, list[int]]]) -> None:
    """Shuffling leaves the columns as they are and reads them through an index."""
    tasks = np.arange(len(samples)) % 3
    dataset = Dataset.from_list([s | {"number": i} for i, s in enumerate(samples)])
    shuffled = dataset.shuffle(seed=1)
    table = SampleTable.build(shuffled, tasks[np.asarray(shuffled["number"])], 3)
    straight = SampleTable.build(dataset, tasks, 3)
    assert np.array_equal(table.hashes, straight.hashes)
    assert np.array_equal(table.tasks, straight.tasks)
