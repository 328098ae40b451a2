"""Adapters: real and sample files to examples, and broken ones refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from multitask.data.adapters import TaskData, load_adapter
from multitask.data.readers import Rejects
from multitask.data.sources import SAMPLE_DIR, read_task
from multitask.errors import InputError
from multitask.tasks import task_names


def _read(task: str, folder: Path | None = None) -> TaskData:
    return read_task(load_adapter(task), data_dir=folder, sample=folder is None)[1]


@pytest.mark.parametrize("task", task_names())
def test_the_sample_is_read_whole(task: str) -> None:
    _, data, rejects = read_task(load_adapter(task), data_dir=None, sample=True)
    sizes = {split: len(rows) for split, rows in data.splits.items()}
    assert (
        sizes
        == {
            "text_claims": {"train": 150},
            "banking77": {"train": 150, "test": 30},
            "commonsense_qa": {"train": 70, "test": 20},
        }[task]
    )
    gold = {example.label for rows in data.splits.values() for example in rows}
    assert gold == set(data.labels)
    assert (rejects.count, rejects.notes) == (0, [])


def test_real_banking77(real_data: Path) -> None:
    data = _read("banking77", real_data)
    assert len(data.splits["train"]) == 10_003
    assert len(data.splits["test"]) == 3_080
    assert len(data.labels) == 77
    assert set(Counter(e.label for e in data.splits["test"]).values()) == {40}
    # The Hub's label ids follow an order that ignores case.
    assert data.labels == tuple(sorted(data.labels, key=str.lower))
    assert "Refund_not_showing_up" in data.labels


def test_real_banking77_label_file_equals_the_shipped_list(real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "banking77"
    folder.mkdir()
    for name in ("train.csv", "test.csv"):
        (folder / name).symlink_to(real_data / "banking77" / name)
    assert _read("banking77", tmp_path).labels == _read("banking77", real_data).labels


def test_real_commonsense_qa_tests_on_its_labelled_validation_split(real_data: Path) -> None:
    data = _read("commonsense_qa", real_data)
    assert len(data.splits["train"]) == 9_741
    assert len(data.splits["test"]) == 1_221
    assert all(len(e.choices) == 5 for e in data.splits["test"])


def test_no_sample_row_is_a_real_one(real_data: Path) -> None:
    def texts(folder: Path | None) -> set[str]:
        return {
            example.text.casefold()
            for task in ("banking77", "commonsense_qa")
            for rows in _read(task, folder).splits.values()
            for example in rows
        }

    assert texts(None) & texts(real_data) == set()


def test_banking77_torn_in_the_last_label(tmp_path: Path) -> None:
    source = SAMPLE_DIR / "banking77"
    folder = tmp_path / "banking77"
    folder.mkdir()
    for name in ("test.csv", "categories.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    (folder / "train.csv").write_bytes((source / "train.csv").read_bytes()[:-6])
    with pytest.raises(InputError, match=r"train\.csv: row 150: unknown intent"):
        _read("banking77", tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"answerKey": ""}, "the answer is no option"),
        ({"answerKey": "F"}, "the answer is no option"),
        ({"choices": ["a", "b"]}, "'choices' needs the lists"),
        ({"choices": {"label": ["A", "B"], "text": ["x", "y"]}}, "the options are not A, B"),
        ({"question": "  "}, "no question"),
        ({"id": None}, "no id"),
    ],
)
def test_commonsense_qa_rows_that_are_wrong(
    tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    row = {
        "id": "1",
        "question": "q?",
        "choices": {"label": list("ABCDE"), "text": list("abcde")},
        "answerKey": "A",
    }
    folder = tmp_path / "commonsense_qa"
    folder.mkdir()
    for name in ("train.jsonl", "validation.jsonl"):
        (folder / name).write_text(json.dumps(row | change) + "\n")
    with pytest.raises(InputError, match=expected) as error:
        _read("commonsense_qa", tmp_path)
    assert "train.jsonl: row 1" in str(error.value)


def test_a_data_folder_with_a_file_missing(tmp_path: Path) -> None:
    (tmp_path / "banking77").mkdir()
    (tmp_path / "banking77" / "train.csv").write_text("text,category\n")
    with pytest.raises(InputError, match=r"needs test\.csv here"):
        _read("banking77", tmp_path)


def test_a_data_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such data folder"):
        _read("banking77", tmp_path / "nowhere")


def test_duplicate_ids_are_bad_rows(tmp_path: Path) -> None:
    line = (SAMPLE_DIR / "commonsense_qa" / "train.jsonl").read_text().splitlines()[0]
    path = tmp_path / "train.jsonl"
    path.write_text(f"{line}\n{line}\n")
    rejects = Rejects(limit=None)
    load_adapter("commonsense_qa").read({"train": (path,), "validation": (path,)}, rejects)
    assert rejects.reasons == {"duplicate id": 2}


def test_ids_of_banking77_go_on_in_the_next_file(tmp_path: Path) -> None:
    """The Hub may cut a split into several files, each with rows numbered from 1."""
    for name in ("a", "b", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,category\n{name},card_arrival\n")
    files = {split: (tmp_path / f"{split}.csv",) for split in ("test",)}
    files["train"] = (tmp_path / "a.csv", tmp_path / "b.csv")
    data = load_adapter("banking77").read(files, Rejects())
    assert [example.id for example in data.splits["train"]] == ["train-1", "train-1-1"]
