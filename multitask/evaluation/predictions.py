"""``predictions.parquet``: what was answered to every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.evaluation.calibrate import confidences
from multitask.evaluation.calibration import TaskCalibration
from multitask.evaluation.parts import Prediction, Purpose
from multitask.evaluation.results import Parts, parsed_answers
from multitask.run import write_atomic
from multitask.tasks import Task

# Labels of a row whose scores are kept: the highest.
_MOST_SCORES = 100


@dataclass(frozen=True)
class Table:
    """Predictions of a task, a column a list.

    Attributes:
        columns: By name; see `write`.
    """

    columns: dict[str, list[Any]]


def table_of(task: Task, parts: Parts, calibration: TaskCalibration | None) -> Table:
    """The predictions of a task."""
    predictions = parts[Purpose.SCORES].predictions
    count = len(predictions)
    nothing: list[Any] = [None] * count
    free, named = _free(task, parts, predictions)
    confidence, over = nothing, nothing
    if calibration is not None:
        found, over = confidences(calibration, predictions)
        confidence = found.tolist()
    other = nothing
    if Purpose.OTHER_WAY in parts:
        other = [p.predicted for p in parts[Purpose.OTHER_WAY].predictions]
    closed = task.kind.closed
    return Table(
        {
            "task": [task.name] * count,
            "id": [p.id for p in predictions],
            "gold": [p.gold for p in predictions],
            "predicted": [p.predicted for p in predictions],
            "scores": [_scores(p) for p in predictions],
            "unvisited": [
                p.residual_mass / (1 - p.residual_mass) if closed else None for p in predictions
            ],
            "confidence": confidence,
            "hand_over": over,
            "text": free,
            "text_label": named,
            "predicted_other_way": other,
            "truncated_tokens": [p.dropped for p in predictions],
        }
    )


def _scores(prediction: Prediction) -> list[dict[str, Any]]:
    known = [
        (label, value)
        for label, value, scored in zip(
            prediction.labels, prediction.log_probs.tolist(), prediction.scored, strict=True
        )
        if scored
    ]
    if len(known) > _MOST_SCORES:
        known = sorted(known, key=lambda entry: -entry[1])[:_MOST_SCORES]
    return [{"label": label, "score": value} for label, value in known]


def _free(
    task: Task, parts: Parts, predictions: Sequence[Prediction]
) -> tuple[list[Any], list[Any]]:
    """Free answers and the labels that they name, where there are any."""
    if not task.kind.closed:
        return [p.predicted for p in predictions], [None] * len(predictions)
    if Purpose.GENERATED not in parts:
        return [None] * len(predictions), [None] * len(predictions)
    part = parts[Purpose.GENERATED]
    named = parsed_answers(task, part)
    answers = {
        (p.id, row["template"]): (p.predicted, label)
        for p, row, label in zip(part.predictions, part.part.rows, named, strict=True)
    }
    rows = parts[Purpose.SCORES].part.rows
    found = [answers.get((row["id"], row["template"]), (None, None)) for row in rows]
    return [text for text, _ in found], [label for _, label in found]


def write(path: Path, tables: Sequence[Table]) -> None:
    """Write the predictions of all tasks.

    Columns: task, id, gold, predicted; ``scores``, the log-likelihoods of the labels visited, at
    most the 100 highest; ``unvisited``, the bound of the others' probability; ``confidence`` and
    ``hand_over`` after calibration; ``text`` and ``text_label``, a free answer and the label it
    names; ``predicted_other_way``, of multiple choice; ``truncated_tokens`` of the prompt.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
        {
            "task": text,
            "id": text,
            "gold": text,
            "predicted": text,
            "scores": pa.list_(pa.struct({"label": text, "score": pa.float64()})),
            "unvisited": pa.float64(),
            "confidence": pa.float64(),
            "hand_over": pa.bool_(),
            "text": text,
            "text_label": text,
            "predicted_other_way": text,
            "truncated_tokens": pa.int32(),
        }
    )
    tables_of_tasks = [pa.Table.from_pydict(table.columns, schema=schema) for table in tables]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables_of_tasks), sink)
    write_atomic(path, sink.getvalue().to_pybytes())
