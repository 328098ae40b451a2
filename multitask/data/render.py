"""Rows in words: what is written to ``RUN/data/*.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from multitask.data.fingerprint import Fingerprints, draw
from multitask.data.mixture import Indices
from multitask.data.rows import NOTHING, Rows, arrow, content_of, spaced, text_column
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

    def lines(self, rows: Rows, templates: Indices) -> pa.LargeStringArray:
        """Rows as JSON lines, each with its line break; raises as :meth:`rows`.

        Rows of a class differ in text, id and label alone, wherever a template puts the text out
        as it is: their lines are joined in columns.

        Args:
            rows: The rows.
            templates: For each row, which phrasing it gets.
        """
        pieces = [0 if around is None else len(around) for around in self._around]
        counts = np.array(pieces)[templates]
        if not self.task.kind.classes or self._alpaca or not rows.text_alone:
            counts[:] = 0
        # A prompt has no white space around it, which is why such a text may lose its own.
        counts[spaced(rows.column("text"))] = 0
        places, lines = [np.zeros(0, dtype=np.int64)], [text_column(())]
        for count in np.unique(counts).tolist():
            here = np.flatnonzero(counts == count)
            some = rows if len(here) == len(rows) else rows.take(here)
            places.append(here)
            lines.append(
                self._joined(some, templates[here], count)
                if count
                else text_column(self._dumped(some, templates[here]))
            )
        if len(lines) == 2:
            return lines[1]
        return pa.concat_arrays(lines).take(arrow(np.argsort(np.concatenate(places))))

    def _dumped(self, rows: Rows, templates: Indices) -> Iterator[str]:
        for row in self.rows(rows, templates.tolist(), range(len(rows))):
            yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE).decode()

    def _joined(self, rows: Rows, templates: Indices, count: int) -> pa.LargeStringArray:
        """Lines of rows of a class whose prompts are their text between ``count`` pieces."""
        names, templates_of_task = rows.label_names, self.task.templates
        heads = [[""] * len(templates_of_task) for _ in range(count)]
        middles = [""] * len(templates_of_task)
        tails = [""] * (len(templates_of_task) * len(names))
        for number in np.unique(templates).tolist():
            around = [*(self._around[number] or ())]
            # A prompt has no white space around it.
            around[0] = around[0].lstrip()
            around[-1] = around[-1].rstrip()
            for head, piece in zip(heads, around, strict=True):
                head[number] = quoted(piece)
            heads[0][number] = '{"messages":[{"role":"user","content":"' + heads[0][number]
            middles[number] = f'","template":"{quoted(templates_of_task[number].name)}","text":"'
            for place, label in enumerate(names):
                known = self._responses[number].get(label)
                response = quoted(known or self._response(Example("", "", label), number))
                tails[number * len(names) + place] = (
                    f'"}},{{"role":"assistant","content":"{response}"}}],'
                    f'"task":"{quoted(self.task.name)}","id":"'
                )
        text = _quoted_column(rows.column("text"))
        prompt = [part for head in heads for part in (_picked(head, templates), text)][:-1]
        return pc.binary_join_element_wise(
            *prompt,
            _picked(tails, templates * len(names) + rows.codes),
            _quoted_column(rows.column("id")),
            _picked(middles, templates),
            text,
            _picked([f'","label":"{quoted(label)}"}}\n' for label in names], rows.codes),
            NOTHING,
        )

    def _response(self, example: Example, number: int) -> str:
        """The response; of classes, which are few, it is remembered."""
        response = self.task.response(example, self.task.templates[number])
        if self.task.kind.classes:
            self._responses[number][example.label] = response
        return response


def quoted(text: str) -> str:
    """A text as it stands between the quotes of JSON."""
    return encode_basestring(text)[1:-1]


def _quoted_column(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """A column of texts as they stand between the quotes of JSON."""
    data = content_of(texts)
    if data.min(initial=255) >= ord(" ") and not (data == ord('"')).any():  # noqa: SIM102
        if not (data == ord("\\")).any():
            return texts
    special = pc.match_substring_regex(texts, r'["\\\x00-\x1f]')
    found = text_column(map(quoted, texts.filter(special).to_pylist()))
    return pc.replace_with_mask(texts, special, found)


def _picked(texts: list[str], numbers: npt.NDArray[np.integer[Any]]) -> pa.LargeStringArray:
    return text_column(texts).take(arrow(numbers))


def pick_templates(keys: Fingerprints, uses: Indices | None, count: int, *, seed: int) -> Indices:
    """Choose a phrasing for every row by its fingerprint, another one each time it is used.

    Args:
        keys: The rows' fingerprints.
        uses: Which use of its example a row is; None where each is used once.
        count: How many phrasings there are.
        seed: Seeds the choice.
    """
    first = (draw(keys, seed) >> np.uint64(11)) % np.uint64(count)
    chosen: Indices = first.astype(np.int64)
    return chosen if uses is None else (chosen + uses) % count
