"""Rows in words: what is written to ``RUN/data/*.jsonl``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from multitask.data.mixture import Indices
from multitask.data.normal_form import Fingerprints, draw
from multitask.tasks import ROW_FIELDS, Example, Kind, Task

Row = dict[str, Any]

# The row's variables that hold its text; the others (choices, input) need Jinja for every row.
_TEXT_FIELDS = ("text", "question", "prompt", "instruction")


def gold(row: Row) -> str:
    """The gold answer of a row: a class, an option's letter, or the reference response."""
    value: str = row["label"] if "label" in row else row["answer"]
    return value


class Renderer:
    """Puts the rows of one task into words."""

    def __init__(self, task: Task, *, alpaca: bool = False) -> None:
        """Render for ``task``; with ``alpaca``, rows have instruction, input, output as well."""
        self.task = task
        self._alpaca = alpaca
        self._fast = [
            template.prompt_with_text(task.constants(), _TEXT_FIELDS, ROW_FIELDS)
            for template in task.templates
        ]
        self._responses: list[dict[str, str]] = [{} for _ in task.templates]

    def rows(
        self, examples: Sequence[Example], templates: Sequence[int], places: Sequence[int]
    ) -> Iterator[Row]:
        """Yield rows.

        Args:
            examples: All examples of a part.
            templates: For each row, which phrasing it gets.
            places: For each row, which example it is.

        Raises:
            InputError: A template uses a variable that a row does not have.
        """
        names = [template.name for template in self.task.templates]
        choice = self.task.kind is Kind.MULTIPLE_CHOICE
        gold_key = "label" if self.task.kind is Kind.CLASSIFICATION else "answer"
        for number, place in zip(templates, places, strict=True):
            example = examples[place]
            fast = self._fast[number]
            prompt = (
                fast(example.text)
                if fast is not None and not example.context
                else self.task.prompt(example, self.task.templates[number])
            )
            response = self._responses[number].get(example.label) or self._response(example, number)
            row: Row = {
                "messages": [
                    {"role": "user", "content": prompt},
                    {"role": "assistant", "content": response},
                ],
                "task": self.task.name,
                "id": example.id,
                "template": names[number],
                "text": example.text,
                gold_key: example.label,
            }
            if choice:
                row["choices"] = example.choices
            if self._alpaca:
                row |= {"instruction": prompt, "input": "", "output": response}
            yield row

    def _response(self, example: Example, number: int) -> str:
        """The response; of classes, which are few, it is remembered."""
        response = self.task.response(example, self.task.templates[number])
        if self.task.kind is Kind.CLASSIFICATION:
            self._responses[number][example.label] = response
        return response


def pick_templates(keys: Fingerprints, uses: Indices | None, count: int, *, seed: int) -> Indices:
    """Choose a phrasing for every row by its fingerprint, another one each time it is used.

    Args:
        keys: The rows' fingerprints.
        uses: Which use of its example a row is; None where each is used once.
        count: How many phrasings there are.
        seed: Seeds the choice.
    """
    import numpy as np

    first = (draw(keys, seed) >> np.uint64(11)) % np.uint64(count)
    chosen: Indices = first.astype(np.int64)
    return chosen if uses is None else (chosen + uses) % count


def encode_lines(
    rows: Iterator[Row], *, every: int, done: Callable[[int], None]
) -> Iterator[bytes]:
    """JSON lines of rows, joined by the thousand, telling ``done`` how many there are."""
    block: list[bytes] = []
    for row in rows:
        block.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        if len(block) == every:
            done(len(block))
            yield b"".join(block)
            block.clear()
    done(len(block))
    yield b"".join(block)
