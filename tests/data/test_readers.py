"""Data files: read row by row, with the place of every fault."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multitask.data.readers import MAX_CELL, Rejects, columns_of, select
from multitask.errors import InputError


def _file(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def _read(path: Path, *columns: str) -> tuple[list[tuple[int, tuple[object, ...]]], Rejects]:
    rejects = Rejects(limit=None)
    return list(select(path, columns, rejects)), rejects


def _listed(rejects: Rejects) -> list[tuple[object, object]]:
    return [(entry["row"], entry["reason"]) for entry in rejects.listed]


@settings(deadline=None)
@given(st.text(st.sampled_from('ab",\n\r \x00\xe9'), max_size=30), st.booleans())
@example('"a"b,c', False)
@example("a,b\n\nc,d\n\n", False)
@example('a,"b\nc,d', False)
@example('"a ""b""","c\n,"\r\nd,', True)
def test_csv_is_read_as_by_the_strict_reader_of_python(body: str, mark: bool) -> None:
    """Whatever the quotes, line breaks and empty lines, though Arrow's reader is lenient."""
    content = "x,y\n" + body
    with tempfile.TemporaryDirectory() as folder:
        path = _file(Path(folder), "a.csv", content.encode("utf-8-sig" if mark else "utf-8"))
        try:
            cells = list(csv.reader(io.StringIO(content, newline=""), strict=True))[1:]
        except csv.Error:
            with pytest.raises(InputError, match="not valid CSV"):
                _read(path, "x", "y")
            return
        whole = [(row, tuple(values)) for row, values in enumerate(cells, 1) if len(values) == 2]
        torn = [row for row, values in enumerate(cells, 1) if len(values) not in (0, 2)]
        if not whole and not torn:
            with pytest.raises(InputError, match="no rows"):
                _read(path, "x", "y")
            return
        rows, rejects = _read(path, "x", "y")
        assert rows == whole
        assert [row for row, _ in _listed(rejects)] == torn


def test_csv_rows_are_numbered_below_the_header(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", b'text,label\n"one, two",x\n"line\nbreak",y\n')
    rows, _ = _read(path, "label", "text")
    assert rows == [(1, ("x", "one, two")), (2, ("y", "line\nbreak"))]


def test_a_byte_order_mark_and_crlf_are_not_content(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", b"\xef\xbb\xbftext,label\r\na,b\r\n")
    assert columns_of(path) == ["text", "label"]
    assert _read(path, "text", "label")[0] == [(1, ("a", "b"))]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_found_and_noted(tmp_path: Path, delimiter: str) -> None:
    path = _file(tmp_path, "a.csv", f"text{delimiter}label\na, b{delimiter}c\n".encode())
    rows, rejects = _read(path, "text", "label")
    assert rows == [(1, ("a, b", "c"))]
    assert rejects.notes == [f"a.csv: read with the delimiter {delimiter!r}"]


def test_jsonl_rows_are_numbered_by_line(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.jsonl", b'{"a": 1}\n\n{"a": 2}\n')
    assert _read(path, "a")[0] == [(1, (1,)), (3, (2,))]


def test_parquet_class_labels_become_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["t"], "label": [1]}, features=features).to_parquet(path)
    assert _read(path, "text", "label")[0] == [(1, ("t", "yes"))]


def test_a_class_that_is_none_is_no_label(tmp_path: Path) -> None:
    """-1 marks rows without a label; Python would take it for the last class."""
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["no", "yes"])
    path = tmp_path / "a.parquet"
    rows = {"text": list("abcd"), "label": [1, -1, 0, 1]}
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    assert [values for _, values in _read(path, "text", "label")[0]] == [
        ("a", "yes"), ("b", None), ("c", "no"), ("d", "yes"),
    ]  # fmt: skip


def test_a_class_beyond_the_names_is_a_bad_row(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features).data.table
    wrong = table.set_column(1, table.schema.field(1), [[7, 1]])
    pq.write_table(wrong, tmp_path / "a.parquet")
    rows, rejects = _read(tmp_path / "a.parquet", "text", "label")
    assert rows == [(2, ("b", "yes"))]
    assert _listed(rejects) == [(1, "the class is none of those (7, and there are 2)")]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"text, raw";label', ["text, raw", "label"]),
        ('"a;b",label', ["a;b", "label"]),
        ('"two\nlines",label', ["two\nlines", "label"]),
        ("text", ["text"]),
    ],
)
def test_a_delimiter_inside_quotes_divides_nothing(
    tmp_path: Path, header: str, expected: list[str]
) -> None:
    row = ";".join("xy"[: len(expected)]) if ";label" in header else ",".join("xy"[: len(expected)])
    path = _file(tmp_path, "a.csv", f"{header}\n{row}\n".encode())
    assert columns_of(path) == expected
    assert _read(path, *expected)[0] == [(1, tuple("xy"[: len(expected)]))]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", b"text,label,text\na,b,c\n")
    with pytest.raises(InputError, match="2 columns are called 'text'"):
        _read(path, "text")
    assert _read(path, "label")[0] == [(1, ("b",))]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"", "is empty"),
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"a,b\n", "no rows"),
        ("a.csv", b'a,b\nx,y\n"torn', r"row 2: not valid CSV"),
        ("a.parquet", b"PAR1 but not really", "not valid Parquet"),
        ("a.xlsx", b"x", r"cannot read \.xlsx"),
        ("a.csv", "a,b\nx,y\n".encode("utf-16"), "UTF-16"),
        ("a.csv", b"c,d\nx,y\n", "no column 'a'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    path = _file(tmp_path, name, content)
    with pytest.raises(InputError, match=expected) as error:
        _read(path, "a")
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"a,b\nx,y\nz\n", (2, "wrong number of columns (1)")),
        ("a.csv", b"a,b\nx,y\n\xe9,z\n", (2, "not UTF-8")),
        ("a.jsonl", b'{"a": 1}\n{"a": ', (2, "not valid JSON")),
        ("a.jsonl", b'{"a": 1}\n[1]\n', (2, "the line is no JSON object")),
        ("a.jsonl", b'{"a": 1}\n{"b": 1}\n', (2, "no key 'a'")),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', (2, "not UTF-8")),
        (
            "a.csv",
            b"a,b\nx,y\n" + b"z" * (MAX_CELL + 1) + b",y\n",
            (2, "a cell has more than 1,000,000 characters"),
        ),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_read(
    tmp_path: Path, name: str, content: bytes, expected: tuple[int, str]
) -> None:
    path = _file(tmp_path, name, content)
    rows, rejects = _read(path, "a")
    assert [row for row, _ in rows] == [1]
    assert _listed(rejects) == [expected]


def test_bad_rows_beyond_the_limit_are_refused_with_their_places(tmp_path: Path) -> None:
    rejects = Rejects(limit=1)
    path = tmp_path / "a.csv"
    for row in range(1, 8):
        rejects.add(path, row, "no label")
    with pytest.raises(InputError, match="7 bad rows in task 'mine', 1 allowed") as error:
        rejects.check(path, "mine")
    message = str(error.value)
    assert "a.csv: row 5: no label" in message
    assert "and 2 more" in message
    assert "max_bad_rows: 7" in message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such data file"):
        _read(tmp_path / "a.csv", "a")
