"""From the files of a task to its rows, by the mapping that declares it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from multitask.data.readers import Rejects, columns_of, select_blocks
from multitask.data.rows import NOTHING, Rows, arrow, text_column
from multitask.errors import InputError, did_you_mean
from multitask.task_spec import AnyOf, Split, TaskSpec
from multitask.tasks import Example
from multitask.tasks.kinds.base import NO_LABEL, RowReader

Files = Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class TaskData:
    """A dataset in the project's own terms.

    Attributes:
        labels: The closed label space, in the order of the label ids; empty for generation.
        splits: Rows by split. ``train`` is always there; ``validation`` and ``test`` where the
            dataset has labelled rows of its own for them.
    """

    labels: tuple[str, ...]
    splits: Mapping[str, Sequence[Example]]


def check_parts(spec: TaskSpec) -> None:
    """See that ``columns`` fit the kind of a task.

    Raises:
        InputError: They do not.
    """
    known = {part for parts in spec.kind.columns for part in parts} | {"id"}
    for part, column in spec.columns.items():
        if part not in known:
            raise InputError(
                f"a {spec.kind} task has no part {part!r}",
                where=f"task {spec.name!r}: key 'columns'",
                fix=did_you_mean(part, known),
            )
        if isinstance(column, list) and part not in spec.kind.list_columns:
            raise InputError(
                "only `choices` may be a list of columns",
                where=f"task {spec.name!r}: key 'columns.{part}'",
                fix="for the first of several names that a file has, write {any_of: [a, b]}",
            )


def read_mapped(spec: TaskSpec, files: Files, rejects: Rejects) -> TaskData:
    """Read every split of a task.

    Args:
        spec: The task.
        files: Files of each split of its dataset.
        rejects: Told of what cannot be used.

    Raises:
        InputError: A file cannot be read, lacks a column, or gives no label space.
    """
    labels = _label_set(spec, files)
    splits: dict[str, Rows] = {}
    for split in get_args(Split):
        place = spec.source.splits.get(split) if spec.source.splits else split
        if place is None or place not in files:
            continue
        reader = spec.kind.reader(spec, labels, files[place])
        own = Rejects(limit=None, on_rows=rejects.on_rows, looked_at=rejects.looked_at)
        rows = _examples(spec, split, files[place], reader, own)
        rejects.looked_at = own.looked_at
        is_extra = place in spec.source.optional and spec.source.hub is not None
        if is_extra and not rows and set(own.reasons) == {NO_LABEL}:
            # As the test splits of benchmarks whose answers are kept back.
            rejects.notes.append(f"the {split} split has no labels, so it is left out")
            continue
        rejects.take(own)
        splits[split] = rows
        if split == "train" and labels is None:
            labels = spec.kind.labels_of(rows, spec, files[place][0], rejects.notes)
    return TaskData(labels=spec.kind.label_space(labels, splits), splits=splits)


def _label_set(spec: TaskSpec, files: Files) -> list[str] | None:
    """The labels that a task declares, or its file of labels; None where its rows say."""
    key = spec.source.labels_key
    if key not in files:
        return spec.kind.declared_labels(spec)
    (path,) = files[key]
    try:
        names = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"not a JSON list of labels ({error})", where=path) from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("not a JSON list of labels", where=path, fix='write ["one", "two"]')
    if spec.labels is None:
        return names
    places = {name: place for place, name in enumerate(spec.labels)}
    for name in names:
        if name not in places:
            raise InputError(
                f"the label {name[:80]!r} is none of task {spec.name!r}",
                where=path,
                fix=did_you_mean(name, spec.labels),
            )
    return sorted(set(names), key=places.__getitem__)


def _examples(
    spec: TaskSpec, split: str, paths: Iterable[Path], reader: RowReader, rejects: Rejects
) -> Rows:
    found: list[Rows] = []
    examples: list[Example] = []
    seen: set[str] = set()
    many = getattr(reader, "many", None)
    for number, path in enumerate(paths):
        columns, id_given = columns_for(spec, path)
        prefix = f"{split}-" if number == 0 else f"{split}-{number}-"
        for block in select_blocks(path, columns, rejects):
            if many is not None and not id_given:
                plain = many(_numbered(prefix, block.rows), *block.columns)
                if plain is not None:
                    found += [Rows.of(examples), plain]
                    examples.clear()
                    continue
            for row, values in block:
                row_id = f"{prefix}{row}"
                if id_given:
                    if values[0] is None or values[0] == "":
                        rejects.add(path, row, "no id")
                        continue
                    row_id, values = str(values[0]), values[1:]  # noqa: PLW2901
                    if row_id in seen:
                        rejects.add(path, row, "duplicate id", detail=repr(row_id[:80]))
                        continue
                    seen.add(row_id)
                example = reader(row_id, values)
                if type(example) is Example:
                    examples.append(example)
                else:
                    reason, _, detail = str(example).partition(": ")
                    rejects.add(path, row, reason, detail=detail)
    return Rows.concat([*found, Rows.of(examples)])


def _numbered(prefix: str, numbers: Sequence[int]) -> pa.LargeStringArray:
    """Ids: a prefix before each number."""
    ends = arrow(np.asarray(numbers, dtype=np.int64)).cast(pa.large_string())
    return pc.binary_join_element_wise(text_column([prefix])[0], ends, NOTHING)


def columns_for(spec: TaskSpec, path: Path) -> tuple[list[str], bool]:
    """The columns to read, in the order of the kind's parts, the id first where it is mapped."""
    known = columns_of(path)
    named: dict[str, list[str]] = {
        part: _names(column, known) for part, column in spec.columns.items()
    }
    # A part that is named must be read: a form without it does not do, whatever the file has.
    wanted = named.keys() - {"id"}
    forms = [parts for parts in spec.kind.columns if wanted <= set(parts)]
    if not forms:
        raise InputError(
            f"{', '.join(sorted(wanted))} belong to no one form of a {spec.kind} task",
            where=f"task {spec.name!r}: key 'columns'",
            fix=f"name parts of one of: {'; '.join(map(', '.join, spec.kind.columns))}",
        )
    for parts in forms:
        chosen = {part: named.get(part, [part]) for part in parts}
        if all(column in known for columns in chosen.values() for column in columns):
            ids = named.get("id", [])
            return [*ids, *(c for part in parts for c in chosen[part])], bool(ids)
    parts = forms[0]
    for part in parts:
        for column in named.get(part, [part]):
            if column not in known:
                raise InputError(
                    f"no column {column!r} for the {part}",
                    where=f"{path}: task {spec.name!r}",
                    fix=f"{did_you_mean(column, known)} Map it: columns: {{{part}: NAME}}",
                )
    raise InputError(f"the columns {', '.join(known)} fit no form", where=path)


def _names(column: str | list[str] | AnyOf, known: Sequence[str]) -> list[str]:
    """The columns that a value of ``columns`` stands for in a file."""
    if isinstance(column, AnyOf):
        return [next((name for name in column.any_of if name in known), column.any_of[0])]
    return column if isinstance(column, list) else [column]
