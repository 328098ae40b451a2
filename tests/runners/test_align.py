"""Which row of a file each tokenised row is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from datasets import Dataset

from multitask.callbacks.rows import RowFile, choose_rows
from multitask.data.render import Row
from multitask.errors import MultitaskError
from multitask.runners.axolotl.align import align

_LONGEST = 20


def _file(tmp_path: Path, lengths: list[int]) -> RowFile:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"task": "odd" if i % 2 else "even", "id": str(i), "text": "ä" * length}
        for i, length in enumerate(lengths)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return RowFile.read(path)


def _tokenize(row: Row) -> tuple[list[int], list[int]]:
    """As many tokens as letters, and all different between rows."""
    ids = [int(row["id"]) * 1000 + place for place in range(len(row["text"]))]
    return ids, [-100, *ids[1:]]


def _dataset(file: RowFile, seed: int | None, *, cut: bool = False) -> Any:
    """What Axolotl does: tokenise, shuffle, then drop or cut what is too long."""
    rows = [dict(zip(("input_ids", "labels"), _tokenize(file.row(i)))) for i in range(len(file))]  # noqa: B905
    dataset = Dataset.from_list(rows)
    if seed is not None:
        dataset = dataset.shuffle(seed=seed)
    if cut:
        return dataset.map(lambda r: {k: v[:_LONGEST] for k, v in r.items()})
    return dataset.filter(lambda r: len(r["input_ids"]) <= _LONGEST)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("cut", [False, True])
def test_rows_are_found_through_shuffling_dropping_and_cutting(
    tmp_path: Path, seed: int | None, cut: bool
) -> None:
    file = _file(tmp_path, [5, 30, 7, 20, 21, 3, 40, 9] * 6)
    dataset = _dataset(file, seed, cut=cut)
    found = align(file, dataset, _tokenize, longest=_LONGEST, shuffle_seed=seed, truncated=cut)
    assert len(found) == len(dataset)
    for number, row in zip(found, dataset, strict=True):
        assert int(number) == row["input_ids"][0] // 1000
    assert file.names == ("even", "odd")
    assert [file.names[file.tasks[i]] for i in (0, 1, 2)] == ["even", "odd", "even"]


def test_another_order_is_noticed(tmp_path: Path) -> None:
    file = _file(tmp_path, [5] * 40)
    with pytest.raises(MultitaskError, match="has other tokens"):
        align(file, _dataset(file, 7), _tokenize, longest=_LONGEST, shuffle_seed=8)


def test_rows_that_are_missing_for_another_reason_are_noticed(tmp_path: Path) -> None:
    file = _file(tmp_path, [5] * 40)
    dataset = _dataset(file, None).select(range(30))
    with pytest.raises(MultitaskError, match="30 rows came of 40"):
        align(file, dataset, _tokenize, longest=_LONGEST, shuffle_seed=None)


def test_evaluated_rows_are_axolotl_s_tokens_of_each_task(tmp_path: Path) -> None:
    """Chosen by task with their ids; labels of the answer alone where prompts are learned."""
    file = _file(tmp_path, [5] * 30)
    with_gold = [json.loads(line) | {"label": "x"} for line in file.path.read_text().splitlines()]
    file.path.write_text("".join(json.dumps(row) + "\n" for row in with_gold))
    file = RowFile.read(file.path)
    dataset = _dataset(file, 3)
    order = align(file, dataset, _tokenize, longest=_LONGEST, shuffle_seed=3)
    rows = choose_rows(file, dataset, order, budget=4, seed=0)
    assert [row.task for row in rows.rows] == [0] * 4 + [1] * 4
    for row in rows.rows:
        number = int(row.id)
        assert row.task == file.tasks[number]
        assert (row.input_ids, row.labels) == _tokenize(file.row(number))
    last = choose_rows(
        file, dataset, order, budget=4, seed=0,
        answers=lambda row: (_tokenize(row)[0], [-100] * 4 + _tokenize(row)[1][-1:]),
    )  # fmt: skip
    assert [row.first for row in last.rows] == [4] * 8
    assert last.ids() == rows.ids()
