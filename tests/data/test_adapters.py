"""Adapters: real and sample files to examples, and broken ones refused."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from multitask.data.adapters import load_adapter
from multitask.data.adapters.text_claims import fold_label
from multitask.data.sources import SAMPLE_DIR, find_source
from multitask.errors import InputError
from multitask.tasks import task_names


def _read(task: str, folder: Path | None = None) -> object:
    adapter = load_adapter(task)
    return adapter.read(find_source(adapter, data_dir=folder, sample=folder is None).files)


def _csv(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize("task", task_names())
def test_the_sample_is_read_whole(task: str) -> None:
    data = _read(task)
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
    assert data.dropped == []


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
    real = {
        e.text.casefold()
        for t in ("banking77", "commonsense_qa")
        for rows in _read(t, real_data).splits.values()
        for e in rows
    }
    sample = {
        e.text.casefold()
        for t in ("banking77", "commonsense_qa")
        for rows in _read(t).splits.values()
        for e in rows
    }
    assert sample & real == set()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Claim", "Claim"),
        (" claim ", "Claim"),
        ("1", "Claim"),
        ("Not a Claim", "Not a Claim"),
        ("not_a_claim", "Not a Claim"),
        ("non-claim", "Not a Claim"),
        ("NOT A CLAIM.", "Not a Claim"),
        (0, "Not a Claim"),
        ("maybe", None),
        ("", None),
        (None, None),
    ],
)
def test_label_variants_are_folded(value: object, expected: str | None) -> None:
    assert fold_label(value) == expected


def test_text_claims_lists_what_it_leaves_out(tmp_path: Path) -> None:
    _csv(
        tmp_path / "text_claims" / "data.csv",
        [
            ["idx", "Text", "Labels"],
            ["0", "a", "claim"],
            ["1", "b", "perhaps"],
            ["2", "None", "claim"],
            ["3", "c", "0"],
        ],
    )
    data = _read("text_claims", tmp_path)
    assert [e.label for e in data.splits["train"]] == ["Claim", "Not a Claim"]
    assert [(d["row"], d["reason"]) for d in data.dropped] == [
        (2, "the label 'perhaps' is neither 'Claim' nor 'Not a Claim'"),
        (3, "no text"),
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["a", "b"], ["x", "y"]], "no text column found among a, b"),
        ([["text", "b"], ["x", "y"]], "no label column found among text, b"),
        ([["text", "label"], ["x", "y"]], "none of the 1 rows has a label"),
    ],
)
def test_text_claims_without_usable_columns(
    tmp_path: Path, rows: list[list[str]], expected: str
) -> None:
    _csv(tmp_path / "text_claims" / "data.csv", rows)
    with pytest.raises(InputError, match=expected):
        _read("text_claims", tmp_path)


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
        ({"answerKey": ""}, "'answerKey' is empty"),
        ({"answerKey": "F"}, "the answer 'F' is no option"),
        ({"choices": ["a", "b"]}, "'choices' needs the lists"),
        ({"choices": {"label": ["A", "B"], "text": ["x", "y"]}}, "expected the options A, B"),
        ({"question": "  "}, "'question' is empty"),
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
