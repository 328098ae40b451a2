"""Rows in words: what is written to ``RUN/data/*.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring
from typing import Any

import orjson

from multitask.data.fingerprint import Fingerprints, draw
from multitask.data.mixture import Indices
from multitask.tasks import Example, Task

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
        fields = tuple(task.kind.variables(Example("", "", "")))
        self._around = [
            template.around_text(task.constants(), _TEXT_FIELDS, fields)
            for template in task.templates
        ]
        self._heads = [self._head(number) for number in range(len(task.templates))]
        self._tails: list[dict[str, tuple[str, str, str]]] = [{} for _ in task.templates]
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
        gold_key = self.task.kind.gold_key
        for number, place in zip(templates, places, strict=True):
            example = examples[place]
            pieces = self._around[number]
            prompt = (
                self.task.prompt(example, self.task.templates[number])
                if pieces is None or example.context
                else example.text.join(pieces).strip()
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
            row |= self.task.kind.row_fields(example)
            if self._alpaca:
                row |= {"instruction": prompt, "input": "", "output": response}
            yield row

    def lines(
        self, examples: Sequence[Example], templates: Sequence[int], places: Sequence[int]
    ) -> Iterator[str]:
        """Yield :meth:`rows` as JSON lines; takes and raises the same.

        Rows of a class that differ in their text and id alone are most rows of large tasks: what
        stands between these two is encoded once per phrasing and label.
        """
        heads, tails = self._heads, self._tails
        for number, place in zip(templates, places, strict=True):
            example = examples[place]
            text, head = example.text, heads[number]
            # A prompt has no white space around it, which is why such a text may lose its own.
            if head is None or example.context or text.strip() != text:
                row = next(self.rows(examples, (number,), (place,)))
                yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE).decode()
                continue
            tail = tails[number].get(example.label)
            if tail is None:
                tail = tails[number][example.label] = self._tail(number, example)
            quoted = encode_basestring(text)[1:-1]
            prompt = quoted.join(head)
            yield (f"{prompt}{tail[0]}{encode_basestring(example.id)}{tail[1]}{quoted}{tail[2]}")

    def _head(self, number: int) -> list[str] | None:
        """A line up to the prompt's end, cut at the text; None where rows differ in more."""
        pieces = self._around[number]
        if pieces is None or not self.task.kind.classes or self._alpaca:
            return None
        pieces = [pieces[0].lstrip(), *pieces[1:]]
        pieces[-1] = pieces[-1].rstrip()
        quoted = [encode_basestring(piece)[1:-1] for piece in pieces]
        return ['{"messages":[{"role":"user","content":"' + quoted[0], *quoted[1:]]

    def _tail(self, number: int, example: Example) -> tuple[str, str, str]:
        """What follows the prompt, what stands between id and text, and what follows the text."""
        response = encode_basestring(self._response(example, number))
        task = encode_basestring(self.task.name)
        template = encode_basestring(self.task.templates[number].name)
        return (
            f'"}},{{"role":"assistant","content":{response}}}],"task":{task},"id":',
            f',"template":{template},"text":"',
            f'","label":{encode_basestring(example.label)}}}\n',
        )

    def _response(self, example: Example, number: int) -> str:
        """The response; of classes, which are few, it is remembered."""
        response = self.task.response(example, self.task.templates[number])
        if self.task.kind.classes:
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
