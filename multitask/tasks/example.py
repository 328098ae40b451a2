"""One row of a task before it is put into words."""

from __future__ import annotations

from typing import NamedTuple


class Example(NamedTuple):
    """A row as read from its source; a tuple, since there can be millions.

    Attributes:
        id: Unique within its task.
        text: What is classified, the question, or the prompt or instruction.
        label: The gold answer: a class name, the letter of the right option, or for a
            generation task the reference response.
        choices: The options of a multiple-choice question, in order; else empty.
        context: The ``input`` that goes with an instruction; else empty.
    """

    id: str
    text: str
    label: str
    choices: tuple[str, ...] = ()
    context: str = ""
