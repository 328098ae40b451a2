"""TextClaims: texts that are, or are not, an insurance claim.

The dataset on the Hub was written by a language model and is small and dirty, and its exact
columns are unknown. Columns are found by name, else by content; label variants are folded; rows
torn by unquoted commas are put together again where only one way fits. Whatever was not as it
should be is noted, and rows that fit neither label are left out and listed.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask.data.mapping import Files, TaskData
from multitask.data.readers import Rejects
from multitask.errors import InputError
from multitask.task_spec import TaskSpec
from multitask.tasks import Example

CLAIM, NOT_CLAIM = "Claim", "Not a Claim"

_TEXT_COLUMNS = (
    "text", "claim_text", "claim text", "claim_description", "description", "sentence", "content",
    "statement", "claim",
)  # fmt: skip
_LABEL_COLUMNS = (
    "label", "labels", "category", "class", "target", "is_claim", "claim_label", "classification",
)  # fmt: skip
_INDEX_COLUMNS = ("idx", "index", "id", "")
_NO_VALUE = ("", "none", "na", "n/a", "nan", "null")

_FOLDED = {
    "claim": CLAIM, "a claim": CLAIM, "is a claim": CLAIM, "is claim": CLAIM,
    "1": CLAIM, "1.0": CLAIM, "true": CLAIM, "yes": CLAIM,
    "not a claim": NOT_CLAIM, "not claim": NOT_CLAIM, "notaclaim": NOT_CLAIM,
    "notclaim": NOT_CLAIM, "non claim": NOT_CLAIM, "nonclaim": NOT_CLAIM, "no claim": NOT_CLAIM,
    "0": NOT_CLAIM, "0.0": NOT_CLAIM, "false": NOT_CLAIM, "no": NOT_CLAIM,
}  # fmt: skip

# A column is taken for the labels by its content when this share of its cells are labels.
_LABEL_SHARE = 0.8


def fold_label(value: object) -> str | None:
    """Map a label variant to ``Claim`` or ``Not a Claim``; None where it is neither."""
    key = re.sub(r"[\s_-]+", " ", str(value)).strip(" .,;:!'\"").casefold()
    return _FOLDED.get(key)


@dataclass(frozen=True)
class _Columns:
    text: int
    label: int
    width: int


def read(_task: TaskSpec, files: Files, rejects: Rejects) -> TaskData:
    """Read the one file that there is; the labels are what :func:`fold_label` gives."""
    (path,) = files["train"]
    rows = list(csv.reader(io.StringIO(_decode(path, rejects), newline="")))
    header = [cell.strip() for cell in rows[0]] if rows else []
    body = rows[1:]
    if not any(any(cell.strip() for cell in cells) for cells in body):
        raise InputError(
            "the data file has no rows", where=path, fix="fetch it again, or leave the task out"
        )
    columns = _find_columns(header, body, path, rejects)
    examples = []
    for row, cells in enumerate(body, start=1):
        if cells:
            example = _example(row, cells, columns, path, rejects)
            if example:
                examples.append(example)
    _require_both(examples, len(body), path)
    return TaskData(labels=(CLAIM, NOT_CLAIM), splits={"train": examples})


def _decode(path: Path, rejects: Rejects) -> str:
    data = path.read_bytes()
    if not data.strip():
        raise InputError("the data file is empty", where=path, fix="fetch it again")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        rejects.notes.append(f"{path.name}: not UTF-8 (byte {error.start}); read as Windows-1252")
        return data.decode("cp1252", errors="replace")


def _find_columns(
    header: list[str], body: Sequence[Sequence[str]], path: Path, rejects: Rejects
) -> _Columns:
    names = [name.casefold() for name in header]
    whole = [cells for cells in body if len(cells) == len(header)]
    label = _by_name(names, _LABEL_COLUMNS)
    if label is None or not _is_label_column(whole, label):
        found = [i for i in range(len(header)) if _is_label_column(whole, i)]
        found = [i for i in found if names[i] not in _INDEX_COLUMNS] or found
        if len(found) == 1:
            rejects.notes.append(
                f"{path.name}: column {header[found[0]]!r} taken for the labels by its content"
            )
            label = found[0]
        elif label is None:
            raise _no_column("label", header, path, _LABEL_COLUMNS)
    text = _by_name(names, _TEXT_COLUMNS, leave_out=label)
    if text is None:
        others = [i for i in range(len(header)) if i != label and names[i] not in _INDEX_COLUMNS]
        if not others:
            raise _no_column("text", header, path, _TEXT_COLUMNS)
        text = max(others, key=lambda i: sum(len(cells[i].split()) for cells in whole))
        rejects.notes.append(
            f"{path.name}: column {header[text]!r} taken for the texts, its cells are the longest"
        )
    return _Columns(text=text, label=label, width=len(header))


def _by_name(names: list[str], wanted: tuple[str, ...], leave_out: int | None = None) -> int | None:
    for name in wanted:
        if name in names and names.index(name) != leave_out:
            return names.index(name)
    return None


def _is_label_column(rows: Sequence[Sequence[str]], column: int) -> bool:
    filled = [cells[column] for cells in rows if cells[column].strip().casefold() not in _NO_VALUE]
    hits = sum(fold_label(cell) is not None for cell in filled)
    return bool(filled) and hits >= _LABEL_SHARE * len(filled)


def _no_column(what: str, header: list[str], path: Path, names: tuple[str, ...]) -> InputError:
    return InputError(
        f"no {what} column found among {', '.join(header) or 'no columns'}, by name or by content",
        where=path,
        fix=f"name it one of: {', '.join(names)}",
    )


def _example(
    row: int, cells: list[str], columns: _Columns, path: Path, rejects: Rejects
) -> Example | None:
    if len(cells) > columns.width:
        repaired = _rejoin(cells, columns)
        if repaired is None:
            rejects.add(path, row, "too many columns, and no one way to join them")
            return None
        rejects.notes.append(f"{path.name}: row {row}: a text with unquoted commas put together")
        cells = repaired
    elif len(cells) < columns.width:
        rejects.add(path, row, "too few columns")
        return None
    text, label = cells[columns.text].strip(), cells[columns.label]
    if text.casefold() in _NO_VALUE:
        rejects.add(path, row, "no text")
        return None
    folded = fold_label(label)
    if folded is None:
        rejects.add(
            path, row, f"the label is neither {CLAIM!r} nor {NOT_CLAIM!r}", detail=f"({label!r})"
        )
        return None
    return Example(id=f"row-{row}", text=text, label=folded)


def _rejoin(cells: list[str], columns: _Columns) -> list[str] | None:
    """Join the cells of a text that was torn at its commas; None unless one way fits.

    The cells before the text and after it are as many as the header says; the surplus belongs to
    the text, provided that the label then reads as a label.
    """
    surplus = len(cells) - columns.width
    end = columns.text + surplus + 1
    joined = [*cells[: columns.text], ",".join(cells[columns.text : end]), *cells[end:]]
    return joined if fold_label(joined[columns.label]) is not None else None


def _require_both(examples: list[Example], rows: int, path: Path) -> None:
    found = {example.label for example in examples}
    if not found:
        raise InputError(
            f"none of the {rows} rows has a label that reads as {CLAIM!r} or {NOT_CLAIM!r}",
            where=path,
            fix="look at the label column; 1, 0, yes, no and spellings of the two are read",
        )
    if len(found) == 1:
        raise InputError(
            f"every usable row has the label {found.pop()!r}, so there is nothing to learn",
            where=path,
            fix="fetch the file again, or leave the task out",
        )
