"""One row of a task before it is put into words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A row as read from its source.

    Attributes:
        id: Unique within its task.
        text: What is classified, or the question.
        label: The gold answer: a class name, or the letter of the right option.
        choices: The options of a multiple-choice question, in order; else empty.
    """

    id: str
    text: str
    label: str
    choices: tuple[str, ...] = ()
