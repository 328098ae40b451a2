"""``score``: rows of one task through a model."""

from __future__ import annotations

from collections.abc import Sequence

from multitask.data.render import Row, gold
from multitask.errors import InputError
from multitask.scoring.model import LoadedModel
from multitask.scoring.scorer import MAX_NEW_TOKENS, Progress, Request, Scorer, Scores
from multitask.tasks import Task


def score(
    loaded: LoadedModel,
    task: Task,
    rows: Sequence[Row],
    *,
    max_residual: float | None = 0.0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Progress = lambda _: None,
) -> Scores:
    """Score rows of a task: over its closed label set, or by greedy generation.

    Args:
        loaded: The model.
        task: The definition that made the rows.
        rows: Rows of a run's split.
        max_residual: How much of the distribution over the labels may stay unknown; see
            `Scorer.score`.
        max_new_tokens: Longest generated answer.
        progress: Told how many rows are done.

    Returns:
        One row each, in the same order; columns are the labels that a row can have.

    Raises:
        InputError: A row has a phrasing that the task does not have, or two labels have the same
            tokens.
        MultitaskError: The model cannot score a row; it is named.
    """
    scorer, requests = Scorer(loaded), requests_of(task, rows)
    if not task.kind.closed:
        return scorer.generate(requests, max_new_tokens=max_new_tokens, progress=progress)
    return scorer.score(requests, max_residual=max_residual, progress=progress)


def requests_of(task: Task, rows: Sequence[Row]) -> list[Request]:
    """What rows of a task ask of a model.

    Raises:
        InputError: A row has a phrasing that the task does not have.
    """
    templates = {template.name: template for template in task.templates}
    by_text = task.kind.own_responses(task)
    shared: dict[tuple[str, int], tuple[str, ...]] = {}
    requests = []
    for row in rows:
        template = templates.get(row["template"])
        if template is None:
            raise InputError(
                f"row {row['id']!r} has the unknown template {row['template']!r}",
                where=f"task {task.name!r}",
            )
        choices, answer = tuple(row.get("choices", ())), gold(row)
        labels = task.candidates(choices)
        key = template.name, len(choices)
        if by_text or key not in shared:
            shared[key] = tuple(
                task.response_for(label, template, choices=choices) for label in labels
            )
        request = Request(
            id=str(row["id"]),
            prompt=row["messages"][0]["content"],
            candidates=shared[key],
            gold=labels.index(answer) if answer in labels else None,
            text=row.get("text", ""),
            distinct=not by_text,
        )
        requests.append(request)
    return requests
