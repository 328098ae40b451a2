"""What evaluation would stumble over, found before the training is paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from multitask.data.mixture import Indices
from multitask.errors import InputError
from multitask.tasks import Example, Task, Template
from multitask.tasks.kinds.base import one_response_each

if TYPE_CHECKING:
    from multitask.data.leakage import Part

_SAMPLE = 250


def require_distinct_responses(task: Task) -> None:
    """See that every label of a closed set has a response of its own in every phrasing.

    Raises:
        InputError: Two labels have the same response, or one has an empty one.
    """
    for template in task.templates:
        responses = [task.response_for(label, template) for label in task.labels]
        fix = "use {{ label }} in the response"
        one_response_each(task, template.name, task.labels, responses, fix=fix)


def check_scorable(
    task: Task, parts: Mapping[str, Part], phrasings: Mapping[str, Indices]
) -> list[str]:
    """Render every held-out row in the ways that evaluation asks it, and compare what comes out.

    Args:
        task: The task.
        parts: Its rows by split.
        phrasings: For each held-out split, the number of each row's phrasing.

    Returns:
        What is odd, and yet can be scored.

    Raises:
        InputError: A row cannot be rendered, a prompt is the same for every row, options are not
            shown that are answered by letter, or two different options have the same response.
    """
    sample = _sample(parts["train"])
    warnings = [w for template in task.templates for w in _check_prompt(task, template, sample)]
    task.kind.check_rows(task, parts, phrasings)
    return warnings


def _sample(part: Part) -> list[Example]:
    """Some rows of a part that differ in content, whatever their order."""
    _, first = np.unique(part.keys, return_index=True)
    return [part.examples[i] for i in first[:_SAMPLE].tolist()]


def _check_prompt(task: Task, template: Template, rows: Sequence[Example]) -> list[str]:
    if len(rows) < 2:
        return []
    where = f"task {task.name!r}: template {template.name!r}"
    prompts = [task.prompt(example, template) for example in rows]
    distinct = len(set(prompts))
    if distinct == 1:
        raise InputError(
            "the prompt is the same for every row", where=where, fix="put {{ text }} into it"
        )
    differ = len({example.label for example in rows}) > 1
    if differ and len({task.response(example, template) for example in rows}) == 1:
        raise InputError(
            "the response is the same for every row",
            where=where,
            fix="put {{ response }} into it",
        )
    task.kind.check_prompts(replace(task, templates=(template,)), rows, prompts)
    if distinct < len(rows):
        same = f"{len(rows) - distinct:,} of {len(rows):,} rows that differ have the same prompt"
        return [f"template {template.name!r}: {same}; does it leave out a part?"]
    return []


def check_answers(task: Task, tokenizer: Any) -> None:
    """See that a model can tell the labels of a closed set apart, as scoring will encode them.

    Args:
        task: The task.
        tokenizer: The model's, with a chat template.

    Raises:
        InputError: Two labels have the same tokens.
        MultitaskError: A response has no tokens, or the chat template does not keep prompt and
            answer apart.
    """
    from multitask.scoring.encode import Encoder

    encoder = Encoder(tokenizer)
    for template in task.templates:
        responses = tuple(task.response_for(label, template) for label in task.labels)
        if responses:
            encoder.encode("x", responses)
