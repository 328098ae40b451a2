"""TextClaims: the many ways in which a model-made file can be dirty, and what comes of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from multitask.data.sources import read_task
from multitask.data.text_claims import fold_label
from multitask.errors import InputError
from multitask.spec import shipped_task

C, N = "Claim", "Not a Claim"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Claim", C), (" claim ", C), ("CLAIM.", C), ("1", C), (1, C), ("True", C), ("a claim", C),
        (N, N), ("not_a_claim", N), ("non-claim", N), ("NOT A CLAIM.", N), (0, N), ("no", N),
        ("maybe", None), ("", None), (None, None), ("claim denied", None),
    ],
)  # fmt: skip
def test_label_variants_are_folded(value: object, expected: str | None) -> None:
    assert fold_label(value) == expected


@dataclass(frozen=True)
class Variant:
    """A file, and what must be read from it."""

    content: bytes
    rows: list[tuple[str, str]]
    rejected: list[tuple[int, str]] = field(default_factory=list)
    noted: str = ""


_PLAIN = [("my roof leaks", C), ("what is cover?", N)]

VARIANTS = {
    "plain": Variant(b"text,label\nmy roof leaks,Claim\nwhat is cover?,Not a Claim\n", _PLAIN),
    "other names, upper case": Variant(
        b"idx,Claim_Text,Labels\n0,my roof leaks,Claim\n1,what is cover?,Not a Claim\n", _PLAIN
    ),
    "label column first": Variant(
        b"Label,Text\nClaim,my roof leaks\nNot a Claim,what is cover?\n", _PLAIN
    ),
    "columns known by content alone": Variant(
        b"a,b,c\n7,my roof leaks,claim\n9,what is cover?,not a claim\n",
        _PLAIN,
        noted="column 'c' taken for the labels by its content",
    ),
    "label column holds something else": Variant(
        b"label,text,kind\nhome,my roof leaks,claim\nauto,what is cover?,non-claim\n",
        _PLAIN,
        noted="column 'kind' taken for the labels by its content",
    ),
    "0 and 1": Variant(b"idx,text,label\n0,my roof leaks,1\n1,what is cover?,0\n", _PLAIN),
    "shifted by unquoted commas": Variant(
        b"idx,text,label\n0,my roof, again, leaks,Claim\n1,what is cover?,Not a Claim\n",
        [("my roof, again, leaks", C), ("what is cover?", N)],
        noted="row 1: a text with unquoted commas put together",
    ),
    "shifted with no way to join": Variant(
        b"idx,text,label\n0,a,b,c\n1,my roof leaks,Claim\n2,what is cover?,Not a Claim\n",
        _PLAIN,
        [(1, "too many columns, and no one way to join them")],
    ),
    "too few columns": Variant(
        b"text,label\nalone\nmy roof leaks,Claim\nwhat is cover?,Not a Claim\n",
        _PLAIN,
        [(1, "too few columns")],
    ),
    "None and NA": Variant(
        b"text,label\nNone,Claim\nNA,Claim\nmy roof leaks,Claim\nx,None\nwhat is cover?,no\n",
        _PLAIN,
        [
            (1, "no text"),
            (2, "no text"),
            (4, "the label is neither 'Claim' nor 'Not a Claim' ('None')"),
        ],
    ),
    "drifting labels": Variant(
        b"text,label\nmy roof leaks,CLAIM\nx,Claim denied\nwhat is cover?,Not-a-Claim\n",
        _PLAIN,
        [(2, "the label is neither 'Claim' nor 'Not a Claim' ('Claim denied')")],
    ),
    "byte order mark": Variant(
        b"\xef\xbb\xbftext,label\nmy roof leaks,Claim\nwhat is cover?,Not a Claim\n", _PLAIN
    ),
    "CRLF": Variant(b"text,label\r\nmy roof leaks,Claim\r\nwhat is cover?,Not a Claim\r\n", _PLAIN),
    "Latin-1": Variant(
        b"text,label\nmy caf\xe9 burnt,Claim\nwhat is cover?,Not a Claim\n",
        [("my caf\u00e9 burnt", C), ("what is cover?", N)],
        noted="not UTF-8 (byte 17); read as Windows-1252",
    ),
    "quoted with line breaks": Variant(
        b'text,label\n"my roof\nleaks, badly",Claim\nwhat is cover?,Not a Claim\n',
        [("my roof\nleaks, badly", C), ("what is cover?", N)],
    ),
    "blank lines": Variant(
        b"text,label\n\nmy roof leaks,Claim\n\nwhat is cover?,Not a Claim\n\n", _PLAIN
    ),
    "duplicated rows": Variant(
        b"text,label\nmy roof leaks,Claim\nmy roof leaks,Claim\nwhat is cover?,Not a Claim\n",
        [_PLAIN[0], *_PLAIN],
    ),
}


def _folder(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "text_claims").mkdir()
    (tmp_path / "text_claims" / "data.csv").write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("name", VARIANTS)
def test_a_dirty_file_is_read_as_far_as_it_can_be(tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]
    folder = _folder(tmp_path, variant.content)
    _, data, rejects = read_task(shipped_task("text_claims"), data_dir=folder, sample=False)
    assert [(e.text, e.label) for e in data.splits["train"]] == variant.rows
    assert [(r["row"], r["reason"]) for r in rejects.listed] == variant.rejected
    assert bool(rejects.notes) == bool(variant.noted)
    assert variant.noted in " ".join(rejects.notes)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n\n\n\n\n\n\n\n\n", "is empty"),
        (b"idx,text\n", "no rows"),  # the 9-byte file that was seen
        (b"a,b\nx,y\n", "no label column found among a, b"),
        (b"label\nclaim\nnot a claim\n", "no text column found among label"),
        (b"text,label\nx,y\n", "none of the 1 rows has a label"),
        (b"text,label\nx,claim\ny,Claim\n", "every usable row has the label 'Claim'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    folder = _folder(tmp_path, content)
    with pytest.raises(InputError, match=expected):
        read_task(shipped_task("text_claims"), data_dir=folder, sample=False)
