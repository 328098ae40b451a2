"""``score``: rows of one task through a model, to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multitask.data.render import Row, gold
from multitask.errors import InputError
from multitask.scoring.generate import generate
from multitask.scoring.model import LoadedModel
from multitask.scoring.scorer import label_scores
from multitask.tasks import Kind, Task

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Prediction:
    """What a model answers to one row.

    Attributes:
        task: The row's task.
        id: The row's id.
        gold: The right answer.
        predicted: The label with the highest score, the earlier one of equals; of a generation
            task, the text.
        labels: The labels that the row can have; empty for generation.
        scores: Log-likelihood of each of them.
    """

    task: str
    id: str
    gold: str
    predicted: str
    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


def score(
    loaded: LoadedModel, task: Task, rows: Sequence[Row], *, progress: Progress = lambda _: None
) -> list[Prediction]:
    """Score rows of a task: over its closed label set, or by greedy generation.

    Args:
        loaded: The model.
        task: The definition that made the rows.
        rows: Rows of a run's split.
        progress: Told how many rows are done.

    Returns:
        One prediction per row, in the same order.

    Raises:
        InputError: A row has a phrasing that the task does not have.
    """
    known = {template.name for template in task.templates}
    for row in rows:
        if row["template"] not in known:
            raise InputError(
                f"row {row['id']!r} has the unknown template {row['template']!r}",
                where=f"task {task.name!r}",
            )
    if task.kind is Kind.GENERATION:
        return _generated(loaded, task, rows, progress)
    encoder = loaded.encoder()
    # Options of a question may repeat a text; both then have its score.
    repeats = task.kind is Kind.MULTIPLE_CHOICE and task.answers == "text"
    labels = [task.candidates(tuple(row.get("choices", ()))) for row in rows]
    responses = _Responses(task)
    queries = [
        encoder.encode(
            row["messages"][0]["content"],
            responses.of(row, candidates),
            text=row.get("text", ""),
            repeats=repeats,
        )
        for row, candidates in zip(rows, labels, strict=True)
    ]
    scores = label_scores(loaded.model, queries, progress=progress)
    return [
        Prediction(
            task=task.name,
            id=row["id"],
            gold=gold(row),
            predicted=candidates[max(range(len(values)), key=values.__getitem__)],
            labels=candidates,
            scores=tuple(values),
        )
        for row, candidates, values in zip(rows, labels, scores, strict=True)
    ]


class _Responses:
    """The response of every label, remembered where rows share them."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._remembered: dict[tuple[str, int], tuple[str, ...]] = {}

    def of(self, row: Row, candidates: tuple[str, ...]) -> tuple[str, ...]:
        choices = tuple(row.get("choices", ()))
        if choices and self._task.answers == "text":
            return self._render(row["template"], candidates, choices)
        key = (row["template"], len(candidates))
        if key not in self._remembered:
            self._remembered[key] = self._render(row["template"], candidates, choices)
        return self._remembered[key]

    def _render(
        self, name: str, candidates: tuple[str, ...], choices: tuple[str, ...]
    ) -> tuple[str, ...]:
        template = self._task.template(name)
        return tuple(
            self._task.response_for(label, template, choices=choices) for label in candidates
        )


def _generated(
    loaded: LoadedModel, task: Task, rows: Sequence[Row], progress: Progress
) -> list[Prediction]:
    encoder = loaded.encoder()
    prompts = [encoder.prompt(row["messages"][0]["content"]) for row in rows]
    texts = generate(loaded, prompts, progress=progress)
    return [
        Prediction(task=task.name, id=row["id"], gold=gold(row), predicted=text)
        for row, text in zip(rows, texts, strict=True)
    ]
