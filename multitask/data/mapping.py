"""A user's own task: an adapter made from a mapping in the spec, with no Python."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from multitask.data.adapters import Adapter, Files, HubDataset, TaskData
from multitask.data.readers import Rejects, columns_of, select_blocks
from multitask.errors import InputError, did_you_mean
from multitask.task_spec import SourceSpec, TaskSpec
from multitask.tasks import Example
from multitask.tasks.kinds.base import NO_LABEL, RowReader


def mapped_adapter(spec: TaskSpec) -> Adapter:
    """Make the adapter of a declared task.

    Args:
        spec: The mapping; its paths are absolute.

    Raises:
        InputError: ``columns`` names a part that this kind of task does not have.
    """
    _check_parts(spec)
    source = spec.source

    def read(files: Files, rejects: Rejects) -> TaskData:
        return _read(spec, files, rejects)

    return Adapter(
        name=spec.name,
        hub=_hub(source),
        files={} if source.hub else _paths(source),
        read=read,
        optional_splits=("validation", "test") if source.hub else (),
        max_bad_rows=spec.max_bad_rows,
    )


def _hub(source: SourceSpec) -> tuple[HubDataset, ...]:
    if source.hub is None:
        return ()
    return (HubDataset(source.hub, source.revision or "main", config=source.config),)


def _paths(source: SourceSpec) -> dict[str, str]:
    if source.path is not None:
        return {"train": source.path}
    named = {"train": source.train, "validation": source.validation, "test": source.test}
    return {split: path for split, path in named.items() if path is not None}


def _check_parts(spec: TaskSpec) -> None:
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
            )


def _read(spec: TaskSpec, files: Files, rejects: Rejects) -> TaskData:
    labels = spec.labels
    splits: dict[str, list[Example]] = {}
    for split in ("train", "validation", "test"):
        if split not in files:
            continue
        reader = spec.kind.reader(spec, labels)
        own = Rejects(limit=None, on_rows=rejects.on_rows, looked_at=rejects.looked_at)
        rows = _examples(spec, split, files[split], reader, own)
        rejects.looked_at = own.looked_at
        if spec.source.hub and split != "train" and not rows and set(own.reasons) == {NO_LABEL}:
            # As the test splits of benchmarks whose answers are kept back.
            rejects.notes.append(f"the {split} split has no labels, so it is left out")
            continue
        rejects.take(own)
        splits[split] = rows
        if split == "train" and labels is None:
            labels = spec.kind.labels_of(rows, spec, files["train"][0], rejects.notes)
    return TaskData(labels=spec.kind.label_space(labels, splits), splits=splits)


def _examples(
    spec: TaskSpec, split: str, paths: Iterable[Path], reader: RowReader, rejects: Rejects
) -> list[Example]:
    examples: list[Example] = []
    seen: set[str] = set()
    many = getattr(reader, "many", None)
    for number, path in enumerate(paths):
        columns, id_given = _columns(spec, path)
        prefix = f"{split}-" if number == 0 else f"{split}-{number}-"
        for block in select_blocks(path, columns, rejects):
            if many is not None and not id_given:
                plain = many([f"{prefix}{row}" for row in block.rows], *block.columns)
                if plain is not None:
                    examples += plain
                    continue
            for row, values in zip(block.rows, zip(*block.columns, strict=True), strict=True):
                row_id = f"{prefix}{row}"
                if id_given:
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
    return examples


def _columns(spec: TaskSpec, path: Path) -> tuple[list[str], bool]:
    """The columns to read, in the order of the kind's parts, the id first where it is mapped."""
    known = columns_of(path)
    named: dict[str, list[str]] = {
        part: column if isinstance(column, list) else [column]
        for part, column in spec.columns.items()
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
