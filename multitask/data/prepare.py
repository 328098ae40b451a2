"""From a spec to ``RUN/data`` and ``RUN/plan.md``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from multitask.data.adapters import TaskData, load_adapter
from multitask.data.mixture import Row, gold, mix, render
from multitask.data.plan import plan_markdown
from multitask.data.sources import Source, find_source, sha256
from multitask.data.split import stratified_split
from multitask.run import SPLITS, Run, staged
from multitask.spec import Spec
from multitask.tasks import Example, Task, load_task


@dataclass(frozen=True)
class PreparedTask:
    """A task with its rows divided and put into words."""

    task: Task
    source: Source
    data: TaskData
    rows: Mapping[str, list[Row]]


@dataclass(frozen=True)
class Prepared:
    """The data half of a run, before it is written."""

    tasks: tuple[PreparedTask, ...]

    def split(self, name: str, *, seed: int) -> list[Row]:
        """The rows of a split over all tasks; train is shuffled, the others follow the tasks."""
        by_task = [prepared.rows[name] for prepared in self.tasks]
        if name == "train":
            return mix(by_task, seed=seed)
        return [row for rows in by_task for row in rows]


def prepare_tasks(spec: Spec) -> Prepared:
    """Read, split and word the rows of every task of a spec.

    Raises:
        InputError: A source is missing or broken.
    """
    return Prepared(tuple(_prepare_task(name, spec) for name in spec.tasks))


def _prepare_task(name: str, spec: Spec) -> PreparedTask:
    adapter = load_adapter(name)
    data_dir = Path(spec.data_dir) if spec.data_dir else None
    source = find_source(adapter, data_dir=data_dir, sample=spec.sample)
    data = adapter.read(source.files)
    task = load_task(name, data.labels)
    parts = divide(data, spec.split.train, seed=spec.seed)
    rows = {split: render(task, parts[split], seed=spec.seed) for split in SPLITS}
    return PreparedTask(task=task, source=source, data=data, rows=rows)


def divide(data: TaskData, train: float, *, seed: int) -> dict[str, list[Example]]:
    """Give every row of a task a split.

    Official test rows stay test; without them, what is not trained on is divided evenly between
    validation and test, so that nothing chosen on validation is reported as test.

    Args:
        data: The rows as the adapter gives them.
        train: Share of the training rows that is trained on.
        seed: Seeds the draw.
    """
    trained, rest = stratified_split(data.splits["train"], train, seed=seed)
    if "test" in data.splits:
        return {"train": trained, "validation": rest, "test": list(data.splits["test"])}
    validation, test = stratified_split(rest, 0.5, seed=seed + 1)
    return {"train": trained, "validation": validation, "test": test}


def write_data(prepared: Prepared, spec: Spec, root: Path) -> None:
    """Write ``data/*.jsonl``, ``data/manifest.json`` and ``plan.md`` below a directory."""
    run = Run(root)
    run.data.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        with run.split(split).open("wb") as file:
            for row in prepared.split(split, seed=spec.seed):
                file.write(orjson.dumps(row) + b"\n")
    manifest = _manifest(prepared, spec, run)
    run.manifest.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    run.plan.write_text(plan_markdown(manifest, epochs=spec.epochs), encoding="utf-8")


def _manifest(prepared: Prepared, spec: Spec, run: Run) -> dict[str, Any]:
    return {
        "seed": spec.seed,
        "split": spec.split.model_dump(),
        "tasks": {p.task.name: _task_record(p) for p in prepared.tasks},
        "files": {
            path.name: {
                "rows": sum(len(p.rows[split]) for p in prepared.tasks),
                "sha256": sha256(path),
            }
            for split in SPLITS
            for path in [run.split(split)]
        },
    }


def _task_record(prepared: PreparedTask) -> dict[str, Any]:
    task = prepared.task
    return {
        "kind": str(task.kind),
        "labels": list(task.labels),
        "templates": [template.name for template in task.templates],
        "source": prepared.source.record(),
        "counts": {
            split: {
                "rows": len(rows),
                "labels": dict(sorted(Counter(gold(row) for row in rows).items())),
            }
            for split, rows in prepared.rows.items()
        },
        "dropped": prepared.data.dropped,
    }


def prepare(spec: Spec, out: str | Path) -> Run:
    """Make a run directory that holds the data part alone.

    Args:
        spec: From :func:`multitask.load_spec`.
        out: The run directory; made whole or not at all.

    Raises:
        InputError: A source is missing or broken, or ``out`` holds something else.
    """
    out = Path(out)
    prepared = prepare_tasks(spec)
    with staged(out) as stage:
        Run(stage).spec.write_text(spec.to_yaml(), encoding="utf-8")
        write_data(prepared, spec, stage)
    return Run(out)


def read_rows(path: Path) -> list[Row]:
    """Read back the rows of a split."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]
