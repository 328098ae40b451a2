"""Data files: read whole, or refused with the place of the fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.data.records import read_records
from multitask.errors import InputError


def _file(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_csv_rows_are_numbered_below_the_header(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", b'text,label\n"one, two",x\n"line\nbreak",y\n')
    assert read_records(path) == [
        (1, {"text": "one, two", "label": "x"}),
        (2, {"text": "line\nbreak", "label": "y"}),
    ]


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", b"\xef\xbb\xbftext,label\r\na,b\r\n")
    assert read_records(path) == [(1, {"text": "a", "label": "b"})]


def test_jsonl_rows_are_numbered_by_line(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.jsonl", b'{"a": 1}\n\n{"a": 2}\n')
    assert read_records(path) == [(1, {"a": 1}), (3, {"a": 2})]


def test_parquet_class_labels_become_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["t"], "label": [1]}, features=features).to_parquet(path)
    assert read_records(path) == [(1, {"text": "t", "label": "yes"})]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"", "is empty"),
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"text,label\n", "no rows"),
        ("a.csv", b'text,label\na,b\n"torn', r"row 2: not valid CSV"),
        ("a.csv", b"text,label\na,b\nc\n", r"row 2: the row has 1 columns, the header 2"),
        ("a.jsonl", b'{"a": 1}\n{"a": ', r"line 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", r"line 1: each line must be a JSON object"),
        ("a.csv", b"text\n\xe9\n", "not UTF-8"),
        ("a.parquet", b"PAR1 but not really", "not valid Parquet"),
        ("a.xlsx", b"x", r"cannot read \.xlsx"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    path = _file(tmp_path, name, content)
    with pytest.raises(InputError, match=expected) as error:
        read_records(path)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such data file"):
        read_records(tmp_path / "a.csv")
