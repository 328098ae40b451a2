"""``evaluate``: a run's split through a model, to results.json and predictions.parquet."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.data.render import Row, gold
from multitask.data.write import read_rows
from multitask.errors import InputError, did_you_mean
from multitask.metrics import accuracy, macro_f1
from multitask.metrics.baselines import majority, tfidf_logistic_regression
from multitask.metrics.generation import exact_match, token_f1
from multitask.run import SPLITS, Run, write_atomic
from multitask.scoring.model import LoadedModel, load_model
from multitask.scoring.names import DEFAULT_NAME
from multitask.scoring.score import Prediction, score
from multitask.tasks import Kind, Task, task_from_record

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that was written.

    Attributes:
        directory: ``RUN/evaluation/NAME``.
        results: The content of its results.json.
    """

    directory: Path
    results: dict[str, Any]


def evaluate(
    run: Run | str | Path,
    *,
    model: str | None = None,
    split: str = "test",
    name: str | None = None,
    limit: int | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Evaluation:
    """Score a model on every task of a run and write the result.

    Args:
        run: A run with data, or the path of one.
        model: Path or Hub id; default: the run's trained model.
        split: ``train``, ``validation`` or ``test``.
        name: The evaluation's name; default: ``trained``, or the model's name.
        limit: Score only the first rows of each task.
        progress: Told task, rows done and rows in all.

    Raises:
        InputError: The run has no such split or no trained model, or the model does not load.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}", fix=did_you_mean(split, SPLITS))
    run.require(run.split(split), f"multitask build-config {run.spec} --out {run.root}")
    manifest = json.loads(run.manifest.read_text(encoding="utf-8"))
    rows = _by_task(read_rows(run.split(split)), manifest, limit)
    train_rows = _by_task(read_rows(run.split("train")), manifest, None)
    loaded = load_model(str(trained_model(run)) if model is None else model)

    predictions: list[Prediction] = []
    tasks: dict[str, Any] = {}
    for task_name, record in manifest["tasks"].items():
        task = task_from_record(task_name, record)
        found, tasks[task_name] = _evaluate_task(loaded, task, rows[task_name], progress)
        tasks[task_name]["baselines"] = _baselines(task, train_rows[task_name], rows[task_name])
        predictions += found
    results = {"model": loaded.name, "split": split, "limit": limit, "tasks": tasks}
    directory = run.evaluations / (name or (_slug(model) if model else DEFAULT_NAME))
    _write(directory, results, predictions)
    return Evaluation(directory=directory, results=results)


def trained_model(run: Run) -> Path:
    """The folder of the run's trained model or adapter.

    Raises:
        InputError: Training has not ended yet.
    """
    if any((run.model / name).is_file() for name in ("config.json", "adapter_config.json")):
        return run.model
    raise InputError(
        "the run has no trained model",
        where=run.model,
        fix=f"run `multitask train {run.root}` first, or pass --model",
    )


def _by_task(
    rows: Sequence[Row], manifest: dict[str, Any], limit: int | None
) -> dict[str, list[Row]]:
    by_task: dict[str, list[Row]] = {task: [] for task in manifest["tasks"]}
    for row in rows:
        by_task[row["task"]].append(row)
    return {task: found[:limit] for task, found in by_task.items()}


def _evaluate_task(
    loaded: LoadedModel, task: Task, rows: Sequence[Row], progress: Progress
) -> tuple[list[Prediction], dict[str, Any]]:
    if not rows:
        raise InputError(f"task {task.name!r} has no rows in this split")
    start = time.perf_counter()
    predictions = score(
        loaded, task, rows, progress=lambda done: progress(task.name, done, len(rows))
    )
    seconds = time.perf_counter() - start
    record = {
        "kind": str(task.kind),
        "n": len(rows),
        "seconds": seconds,
        "metrics": _metrics(
            task, [p.gold for p in predictions], [p.predicted for p in predictions]
        ),
    }
    return predictions, record


def _metrics(task: Task, right: list[str], predicted: list[str]) -> dict[str, dict[str, float]]:
    if task.kind is Kind.GENERATION:
        return {
            "exact_match": exact_match(right, predicted).record(),
            "token_f1": token_f1(right, predicted).record(),
        }
    return {
        "accuracy": accuracy(right, predicted).record(),
        "macro_f1": macro_f1(right, predicted, task.labels).record(),
    }


def _baselines(task: Task, train: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    if task.kind is Kind.GENERATION:
        return {}
    right = [gold(row) for row in rows]
    return {
        "majority": _metrics(task, right, majority(train, rows)),
        "tfidf_logistic_regression": _metrics(task, right, tfidf_logistic_regression(train, rows)),
    }


def _slug(model: str) -> str:
    return re.sub(r"[^\w.-]+", "-", model.strip("/")).strip("-.") or "model"


def _write(
    directory: Path,
    results: dict[str, Any],
    predictions: Sequence[Prediction],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "task": [p.task for p in predictions],
            "id": [p.id for p in predictions],
            "gold": [p.gold for p in predictions],
            "predicted": [p.predicted for p in predictions],
            "scores": [
                [{"label": label, "score": s} for label, s in zip(p.labels, p.scores, strict=True)]
                for p in predictions
            ],
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomic(directory / "predictions.parquet", sink.getvalue().to_pybytes())
    write_atomic(directory / "results.json", json.dumps(results, indent=2) + "\n")
