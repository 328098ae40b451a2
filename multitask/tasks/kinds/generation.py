"""Generation: a prompt, and the text that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.tasks.example import Example
from multitask.tasks.kinds.base import Kind, RowReader

if TYPE_CHECKING:
    from multitask.evaluation.results import ByPurpose
    from multitask.metrics.registry import Predictions
    from multitask.task_spec import TaskSpec
    from multitask.tasks.task import Task


class Generation(Kind):
    """A text is answered by a text."""

    name = "generation"
    columns = (
        ("prompt", "response"),
        ("instruction", "input", "output"),
        ("instruction", "output"),
    )
    closed = False
    headline = "exact_match"
    measures = frozenset({"texts"})
    hub_task = "text-generation"

    def reader(
        self, spec: TaskSpec, labels: Sequence[str] | None, paths: Sequence[Path]
    ) -> RowReader:
        """See :meth:`Kind.reader`."""
        del spec, labels, paths
        return _read

    def specimen(self, task: Task) -> Example:
        """See :meth:`Kind.specimen`."""
        del task
        return Example("example", "Say in one sentence what a bank card is for.", "")

    def measured(self, task: Task, parts: ByPurpose, rows: Predictions) -> Predictions:
        """See :meth:`Kind.measured`."""
        del task, parts
        return replace(rows, texts=rows.predicted)


def _read(row_id: str, values: tuple[Any, ...]) -> Example | str:
    prompt, response = values[0], values[-1]
    context = values[1] if len(values) == 3 else ""
    if not isinstance(prompt, str) or not prompt.strip():
        return "no prompt"
    if not isinstance(response, str) or not response.strip():
        return "no response"
    return Example(row_id, prompt, response, context=context if isinstance(context, str) else "")
