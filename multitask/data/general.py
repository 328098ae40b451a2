"""General tasks: rows that are never trained on, to see what a training made the model forget.

Each is a pair of files in ``RUN/data/general``: ``TASK.jsonl``, its rows as they are put to a
model, and ``TASK.json``, its definition, its source, and what was left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from multitask.data.define import define_task, task_of
from multitask.data.leakage import LeakageGate, Part, summary
from multitask.data.render import Renderer, Row, gold, pick_templates
from multitask.data.rows import Rows
from multitask.data.sources import read_task
from multitask.data.special_tokens import guard_cells, token_pattern
from multitask.data.tokens import load_tokenizer
from multitask.digests import sha256
from multitask.errors import InputError
from multitask.files import read_json, read_yaml, understood
from multitask.run import Run, write_atomic
from multitask.spec import Spec, check_task, declared_task, name_of, task_from_file
from multitask.task_spec import TaskSpec
from multitask.tasks import (
    Example,
    Task,
    keep_metrics,
    task_from_record,
    task_names,
    task_record,
)

# Where a source has several splits, the first of these; none of them is trained on.
_PREFERRED = ("test", "validation", "train")

Entry = str | TaskSpec


@dataclass(frozen=True)
class GeneralTask:
    """A general task of a run.

    Attributes:
        task: Its definition.
        rows: Its rows.
        record: The content of ``TASK.json``.
        digest: SHA-256 of the rows' file.
    """

    task: Task
    rows: list[Row]
    record: dict[str, Any]
    digest: str

    @property
    def left_out(self) -> int:
        """Rows that were left out because a training row says the same."""
        return sum(self.record["left_out"].values())


def read_entries(values: Sequence[str]) -> list[Entry]:
    """Read what a user named: shipped tasks, or YAML files with a task or a list of them.

    Raises:
        InputError: A name is not shipped and no file, or a file holds no tasks.
    """
    entries: list[Entry] = []
    for value in values:
        path = Path(value)
        if value in task_names():
            entries.append(value)
        elif path.is_file():
            entries += _from_file(path)
        else:
            raise InputError(
                f"{value!r} is neither a shipped task nor a file",
                fix=f"shipped: {', '.join(task_names())}; else a YAML file with a task, written "
                "as in `tasks` of a spec",
            )
    return entries


def _from_file(path: Path) -> list[Entry]:
    content = read_yaml(path)
    if not isinstance(content, list):
        tasks = [task_from_file(path)]
    elif all(isinstance(one, dict) for one in content):
        tasks = [declared_task(one, path) for one in content]
    else:
        raise InputError(
            "holds no task",
            where=path,
            fix="write it as in `tasks` of a spec: {name, kind, source: {path: FILE}, ...}",
        )
    for task in tasks:
        check_task(task, str(path))
    return list(tasks)


def write_general(
    run: Run, entries: Sequence[Entry], spec: Spec, train: Iterable[Row], *, alpaca: bool
) -> None:
    """Write the files of the general tasks that a run does not have yet.

    Rows that repeat a training row are left out, by the same rules as the leakage gate's, and
    counted: a model that has seen them shows nothing.

    Args:
        run: The run.
        entries: The tasks.
        spec: The run's spec.
        train: Its training rows; read only where a file is missing.
        alpaca: Whether prompts take the Alpaca form.

    Raises:
        InputError: A source is missing or broken, a task is trained on as well, or none of its
            rows is left.
    """
    missing = [e for e in entries if not _files(run, name_of(e))[1].is_file()]
    if not missing:
        return
    parts = _parts(train)
    for entry in missing:
        name = name_of(entry)
        if name in spec.task_names:
            raise InputError(
                f"{name!r} is a task of the run, so it cannot show what is forgotten",
                fix="name a task that is not trained on",
            )
        _write(run, entry, spec, parts, alpaca)


def _write(run: Run, entry: Entry, spec: Spec, train: list[Part], alpaca: bool) -> None:
    declared = task_of(entry)
    source, data, rejects = read_task(
        declared, data_dir=Path(spec.data_dir) if spec.data_dir else None, sample=spec.sample
    )
    task = define_task(declared, data.labels, spec.templates)
    split = next(name for name in _PREFERRED if data.splits.get(name))
    rows = {split: Rows.of(data.splits[split])}
    guard_cells(
        rows,
        token_pattern(load_tokenizer(spec, run.root)),
        spec.templates.special_tokens,
        kind=task.kind,
        task=task.name,
        where=source.location,
    )
    part = Part(declared.name, split, rows[split])
    gate = LeakageGate([part, *train], spec.leakage, seed=spec.seed)
    gate.compare([part], train)
    if not part.examples:
        raise InputError(
            f"general task {declared.name!r}: every row is also a training row",
            where=source.location,
        )
    part = task.kind.arrange(task, part, spec.templates, official=True, seed=spec.seed)
    numbers = pick_templates(part.keys, None, len(task.templates), seed=spec.seed)
    lines = Renderer(task, alpaca=alpaca).lines(part.examples, numbers)
    rows_file, record_file = _files(run, declared.name)
    write_atomic(rows_file, "".join(lines.to_pylist()))
    record = {
        **task_record(keep_metrics(task, run.root)),
        "source": source.record(),
        "split": split,
        "rows": len(part.examples),
        "left_out": next(iter(summary(gate.removed).values()), {}),
        "dropped": rejects.record(),
    }
    # Last, since this file says that the other is whole.
    write_atomic(record_file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _parts(train: Iterable[Row]) -> list[Part]:
    """The training rows by task, each once, as far as it tells them apart."""
    by_task: dict[str, dict[str, Example]] = {}
    for row in train:
        example = Example(row["id"], row["text"], gold(row), tuple(row.get("choices", ())))
        by_task.setdefault(row["task"], {})[row["id"]] = example
    return [Part(name, "train", Rows.of(rows.values())) for name, rows in by_task.items()]


def _files(run: Run, name: str) -> tuple[Path, Path]:
    folder = run.data / "general"
    return folder / f"{name}.jsonl", folder / f"{name}.json"


def read_general(run: Run, names: Sequence[str]) -> list[GeneralTask]:
    """Read general tasks that a run has.

    Raises:
        InputError: A file was changed after it was written.
    """
    found = []
    for name in names:
        rows_file, record_file = _files(run, name)
        record = read_json(record_file, fix=f"remove it and {rows_file.name}")
        with understood(rows_file):
            rows = [orjson.loads(line) for line in rows_file.read_bytes().splitlines()]
        if len(rows) != record.get("rows"):
            raise InputError(
                f"has {len(rows)} rows where {record.get('rows')} were written",
                where=rows_file,
                fix=f"remove it and {record_file.name}; they are written again",
            )
        with understood(record_file):
            task = task_from_record(name, record, run.root)
        found.append(GeneralTask(task, rows, record, sha256(rows_file)))
    return found
