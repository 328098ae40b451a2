"""What evaluation would stumble over, found before the training is paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from multitask.data.mixture import Indices
from multitask.errors import InputError
from multitask.tasks import Example, Kind, Task, Template

if TYPE_CHECKING:
    from multitask.data.leakage import Part

_SAMPLE = 250


def require_distinct_responses(task: Task) -> None:
    """See that every label of a closed set has a response of its own in every phrasing.

    Raises:
        InputError: Two labels have the same response, or one has an empty one.
    """
    for template in task.templates:
        responses = {label: task.response_for(label, template) for label in task.labels}
        _distinct(task, template, list(responses), responses, "use {{ label }} in the response")


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
    if task.kind is not Kind.MULTIPLE_CHOICE:
        return warnings
    # A question is asked for the letter and for the text of its answer, whichever is trained.
    for way in (replace(task, answers="letter"), replace(task, answers="text")):
        for split, numbers in phrasings.items():
            for example, number in zip(parts[split].examples, numbers.tolist(), strict=True):
                _check_options(way, task.templates[number], example)
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
    differ = task.kind is Kind.GENERATION and len({example.label for example in rows}) > 1
    if differ and len({task.response(example, template) for example in rows}) == 1:
        raise InputError(
            "the response is the same for every row",
            where=where,
            fix="put {{ response }} into it",
        )
    if task.kind is Kind.MULTIPLE_CHOICE and task.answers == "letter":
        turned = [example._replace(choices=example.choices[::-1]) for example in rows]
        if [task.prompt(example, template) for example in turned] == prompts:
            raise InputError(
                "the prompt does not show the options that it asks the letter of",
                where=where,
                fix="put {{ choices }} into it, or answer by text: `templates: {answers: text}`",
            )
    if distinct < len(rows):
        same = f"{len(rows) - distinct:,} of {len(rows):,} rows that differ have the same prompt"
        return [f"template {template.name!r}: {same}; does it leave out a part?"]
    return []


def _check_options(task: Task, template: Template, example: Example) -> None:
    task.prompt(example, template)
    labels = task.candidates(example.choices)
    responses = {
        label: task.response_for(label, template, choices=example.choices, row=example.id)
        for label in labels
    }
    # Options that repeat a text are answered alike where the answer is the text.
    means = labels if task.answers == "letter" else example.choices
    _distinct(task, template, means, responses, "use {{ answer }} in the response", example.id)


def _distinct(
    task: Task,
    template: Template,
    means: Sequence[str],
    responses: Mapping[str, str],
    fix: str,
    row: str = "",
) -> None:
    """See that the responses to labels that mean different things are different."""
    seen: dict[str, str] = {}
    for meaning, response in zip(means, responses.values(), strict=True):
        other = seen.setdefault(response, meaning)
        if response and other == meaning:
            continue
        what = "label" if not row or task.answers == "letter" else "option"
        raise InputError(
            f"the {what}s {other!r} and {meaning!r} give the same response {response!r}"
            if response
            else f"the {what} {meaning!r} gives an empty response",
            where=f"task {task.name!r}: template {template.name!r}"
            + (f", row {row!r}" if row else ""),
            fix=fix,
        )


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
