"""TextClaims: texts that are, or are not, an insurance claim.

The dataset on the Hub was written by a language model and is small and dirty. Columns are found
by name, label variants are folded, and rows that fit neither label are left out and listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from multitask.data.adapters.base import Adapter, HubDataset, TaskData
from multitask.data.records import Record, read_records
from multitask.errors import InputError
from multitask.tasks import Example

CLAIM, NOT_CLAIM = "Claim", "Not a Claim"
_TEXT_COLUMNS = ("text", "claim_text", "claim_description", "description", "sentence", "content")
_LABEL_COLUMNS = ("label", "labels", "category", "class", "target")
_FOLDED = {
    "claim": CLAIM,
    "a claim": CLAIM,
    "1": CLAIM,
    "true": CLAIM,
    "yes": CLAIM,
    "not a claim": NOT_CLAIM,
    "not claim": NOT_CLAIM,
    "non claim": NOT_CLAIM,
    "no claim": NOT_CLAIM,
    "0": NOT_CLAIM,
    "false": NOT_CLAIM,
    "no": NOT_CLAIM,
}


def fold_label(value: object) -> str | None:
    """Map a label variant to ``Claim`` or ``Not a Claim``; None where it is neither."""
    key = re.sub(r"[\s_-]+", " ", str(value)).strip(" .'\"").casefold()
    return _FOLDED.get(key)


def _read(files: Mapping[str, Path]) -> TaskData:
    path = files["train"]
    records = read_records(path)
    header = list(records[0][1])
    text_column = _find(header, _TEXT_COLUMNS, "text", path)
    label_column = _find(header, _LABEL_COLUMNS, "label", path)
    examples: list[Example] = []
    dropped: list[dict[str, object]] = []
    for row, record in records:
        reason = _reason_to_drop(record, text_column, label_column)
        if reason is not None:
            dropped.append({"file": path.name, "row": row, "reason": reason})
            continue
        label = fold_label(record[label_column])
        assert label is not None
        examples.append(Example(id=f"row-{row}", text=record[text_column], label=label))
    if not examples:
        raise InputError(
            f"none of the {len(records)} rows has a label that reads as {CLAIM!r} or {NOT_CLAIM!r}",
            where=f"{path}: column {label_column!r}",
        )
    return TaskData(labels=(CLAIM, NOT_CLAIM), splits={"train": examples}, dropped=dropped)


def _find(header: list[str], names: tuple[str, ...], what: str, path: Path) -> str:
    by_name = {column.strip().casefold(): column for column in header}
    for name in names:
        if name in by_name:
            return by_name[name]
    raise InputError(
        f"no {what} column found among {', '.join(header)}",
        where=path,
        fix=f"name it one of: {', '.join(names)}",
    )


def _reason_to_drop(record: Record, text_column: str, label_column: str) -> str | None:
    text, label = record[text_column], record[label_column]
    if not isinstance(text, str) or not text.strip() or text.strip() in ("None", "NA"):
        return "no text"
    if fold_label(label) is None:
        return f"the label {label!r} is neither {CLAIM!r} nor {NOT_CLAIM!r}"
    return None


ADAPTER = Adapter(
    name="text_claims",
    # No commit of this repository could be verified; the manifest records the one that was read.
    hub=HubDataset("infinite-dataset-hub/TextClaimsDataset", "main"),
    files={"train": "data.csv"},
    read=_read,
)
