"""``score``: rows of one task through a model, to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multitask.data.mixture import Row, gold
from multitask.scoring.encode import Encoder
from multitask.scoring.model import LoadedModel
from multitask.scoring.scorer import label_scores
from multitask.tasks import Task


@dataclass(frozen=True)
class Prediction:
    """What a model answers to one row.

    Attributes:
        task: The row's task.
        id: The row's id.
        gold: The right answer.
        predicted: The label with the highest score; the earlier one of equals.
        scores: Log-likelihood of every label, in label order.
    """

    task: str
    id: str
    gold: str
    predicted: str
    scores: tuple[float, ...]


def score(
    loaded: LoadedModel,
    task: Task,
    rows: Sequence[Row],
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Prediction]:
    """Score rows of a task over its closed label set.

    Args:
        loaded: The model.
        task: The definition that made the rows.
        rows: Rows of a run's split.
        progress: Told how many rows are done.

    Returns:
        One prediction per row, in the same order.
    """
    encoder = Encoder(loaded.tokenizer)
    responses = {template.name: task.responses(template) for template in task.templates}
    queries = [
        encoder.encode(row["messages"][0]["content"], responses[row["template"]]) for row in rows
    ]
    pad = loaded.tokenizer.pad_token_id
    scores = label_scores(
        loaded.model,
        queries,
        pad_token=0 if pad is None else pad,
        progress=progress,
    )
    return [
        Prediction(
            task=task.name,
            id=row["id"],
            gold=gold(row),
            predicted=task.labels[max(range(len(values)), key=values.__getitem__)],
            scores=tuple(values),
        )
        for row, values in zip(rows, scores, strict=True)
    ]
