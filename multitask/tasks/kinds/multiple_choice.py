"""Multiple choice: a question with options, and which of them is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.errors import InputError
from multitask.tasks.example import Example
from multitask.tasks.kinds.base import Kind, Row, RowReader, one_response_each
from multitask.tasks.sandbox import letter

if TYPE_CHECKING:
    from multitask.data.leakage import Part
    from multitask.data.mixture import Indices
    from multitask.evaluation.requests import Settings
    from multitask.evaluation.results import ByPurpose
    from multitask.evaluation.runner import TaskScores
    from multitask.metrics.registry import Predictions
    from multitask.task_spec import TaskSpec, TemplatesSpec
    from multitask.tasks.task import Answers, Task

_MAX_OPTIONS = 26
_OPTIONS = ("in the refrigerator", "on the radiator", "in the garden", "in a drawer", "on the roof")


class MultipleChoice(Kind):
    """One of a question's own options is right; labels are their letters."""

    name = "multiple_choice"
    columns = (("question", "choices", "answer"),)
    list_columns = frozenset({"choices"})
    keys = frozenset({"options"})
    exhaustive = True
    hub_task = "multiple-choice"
    measures = Kind.measures | {"choices", "by_letter", "text_scores", "rotated"}
    sections = frozenset({"positions"})

    def reader(
        self, spec: TaskSpec, labels: Sequence[str] | None, paths: Sequence[Path]
    ) -> RowReader:
        """See :meth:`Kind.reader`."""
        del labels, paths
        several = spec.columns.get("choices")
        count = len(several) if isinstance(several, list) else 1

        def read(row_id: str, values: tuple[Any, ...]) -> Example | str:
            question, answer = values[0], values[-1]
            if not isinstance(question, str) or not question.strip():
                return "no question"
            choices = values[1:-1] if count > 1 else values[1]
            names: Sequence[Any] = ()
            if isinstance(choices, dict):  # as CommonsenseQA and ARC have it
                names, choices = choices.get("label") or (), choices.get("text", ())
            fault = _fault(choices, names, spec.options)
            if fault is not None:
                return fault
            texts = tuple("" if choice is None else str(choice) for choice in choices or ())
            if not all(map(str.strip, texts)):
                return "an option is empty"
            if not names:
                texts = tuple(map(str.strip, texts))
            # The names may be numbers from 1, where a position is one from 0.
            gold = letter(names.index(answer)) if answer in names else option_letter(answer, texts)
            if gold is None:
                return f"the answer is no option: {str(answer)[:80]!r}"
            return Example(row_id, question, gold, texts)

        return read

    def label_space(
        self, labels: Sequence[str] | None, splits: Mapping[str, Sequence[Example]]
    ) -> tuple[str, ...]:
        """The letters of the most options that a question has."""
        del labels
        most = max((len(row.choices) for rows in splits.values() for row in rows), default=0)
        return tuple(letter(i) for i in range(most))

    def answer(self, task: Task, label: str, choices: tuple[str, ...]) -> str:
        """See :meth:`Kind.answer`: the letter, or the option's text."""
        return choices[ord(label) - ord("A")] if task.answers == "text" and choices else label

    def candidates(self, task: Task, choices: tuple[str, ...]) -> tuple[str, ...]:
        """See :meth:`Kind.candidates`: one per option."""
        return tuple(letter(i) for i in range(len(choices))) if choices else task.labels

    def own_responses(self, task: Task) -> bool:
        """See :meth:`Kind.own_responses`."""
        return task.answers == "text"

    def specimen(self, task: Task) -> Example:
        """See :meth:`Kind.specimen`."""
        count = max(2, len(task.labels))
        options = (*_OPTIONS, *(f"somewhere else ({letter(i)})" for i in range(count)))[:count]
        return Example("example", "Where would you keep milk so that it stays fresh?", "A", options)

    def without_content(self, task: Task, text: str) -> Example:
        """See :meth:`Kind.without_content`."""
        return Example("", text, task.labels[0], ("N/A",) * len(task.labels))

    def arrange(
        self, task: Task, part: Part, words: TemplatesSpec, *, official: bool, seed: int
    ) -> Part:
        """Move options as the spec says, except of official test rows, which stay comparable."""
        from multitask.data.options import shuffle_options

        del task
        if words.shuffle_options and not official:
            part.examples = shuffle_options(part.examples, part.keys, seed=seed)
        return part

    def check_prompts(self, task: Task, rows: Sequence[Example], prompts: Sequence[str]) -> None:
        """See that options are shown that are answered by letter."""
        if task.answers != "letter":
            return
        (template,) = task.templates
        turned = [example._replace(choices=example.choices[::-1]) for example in rows]
        if [task.prompt(example, template) for example in turned] == prompts:
            raise InputError(
                "the prompt does not show the options that it asks the letter of",
                where=f"task {task.name!r}: template {template.name!r}",
                fix="put {{ choices }} into it, or answer by text: `templates: {answers: text}`",
            )

    def check_rows(
        self, task: Task, parts: Mapping[str, Part], phrasings: Mapping[str, Indices]
    ) -> None:
        """See that options can be told apart by letter and by text, whichever is trained."""
        for way in (answered_by(task, "letter"), answered_by(task, "text")):
            for split, numbers in phrasings.items():
                for example, number in zip(parts[split].examples, numbers.tolist(), strict=True):
                    _check_options(way, number, example)

    def p_values(self, task: Task, part: Part) -> dict[str, float]:
        """Whether gold is as often at each position, where all questions have as many options."""
        from multitask.data.options import uniform_p_value

        if len({len(example.choices) for example in part.examples}) != 1:
            return {}
        return {"gold position even": uniform_p_value(part.labels, task.labels)}

    def asked_otherwise(
        self, task: Task, rows: Sequence[Row], settings: Settings
    ) -> Iterator[tuple[str, Task, list[Row]]]:
        """By text where the task answers by letter or the reverse; in every order of options."""
        if settings.option_texts:
            other = answered_by(task, "text" if task.answers == "letter" else "letter")
            yield "other way", other, [_reworded(other, row) for row in rows]
        if settings.permutations:
            yield "rotations", task, [turned for row in rows for turned in rotated(task, row)]

    def parse(self, task: Task, rows: Sequence[Row], texts: Sequence[str]) -> list[str | None]:
        """See :meth:`Kind.parse`."""
        from multitask.metrics.text import parse_letter

        if task.answers == "text":
            return super().parse(task, rows, texts)
        return [
            parse_letter(text, len(row["choices"])) for row, text in zip(rows, texts, strict=True)
        ]

    def measured(self, task: Task, parts: ByPurpose, rows: Predictions) -> Predictions:
        """See :meth:`Kind.measured`; options by letter and by text, and in all cyclic orders."""
        from multitask.evaluation.requests import Purpose

        main = parts[Purpose.SCORES]
        rows = replace(rows, choices=[row["choices"] for row in main.rows])
        if Purpose.ROTATIONS in parts:
            rows = replace(rows, rotated=_rotated(parts[Purpose.ROTATIONS]))
        if Purpose.OTHER_WAY in parts:
            by_letter, by_text = main, parts[Purpose.OTHER_WAY]
            if task.answers == "text":
                by_letter, by_text = by_text, by_letter
            counts = [len(row["choices"]) for row in by_text.rows]
            scores = zip(by_text.log_probs, counts, strict=True)
            rows = replace(
                rows,
                by_letter=by_letter.predicted,
                text_scores=[row[:count].tolist() for row, count in scores],
            )
        return rows

    def details(self, task: Task, parts: ByPurpose, rows: Predictions) -> dict[str, Any]:
        """Questions that repeat an option's text, and those of them where gold's is repeated."""
        del task, parts
        asked = list(zip(rows.choices or (), rows.gold, strict=True))
        repeated = [
            (list(choices), gold) for choices, gold in asked if len(set(choices)) < len(choices)
        ]
        of_gold = sum(
            choices.count(choices[ord(gold) - ord("A")]) > 1 for choices, gold in repeated
        )
        return {"repeated_options": {"rows": len(repeated), "gold_rows": of_gold}}


def _fault(choices: object, names: object, count: int | None) -> str | None:
    """What is wrong with a row's options."""
    if not isinstance(choices, (list, tuple)) or not 2 <= len(choices) <= _MAX_OPTIONS:
        return f"the options are no list of 2 to {_MAX_OPTIONS}"
    if count is not None and len(choices) != count:
        return f"{len(choices)} options, not {count}"
    if not isinstance(names, (list, tuple)) or len(names) not in (0, len(choices)):
        return "the options' lists `label` and `text` are not of one length"
    return None


def option_letter(answer: object, choices: Sequence[str]) -> str | None:
    """The letter of the right option, given as a letter, a position from 0, or its text.

    An option's own text wins, when exactly one option has it. None where nothing fits.
    """
    if isinstance(answer, bool):
        return None
    text = str(answer).strip()
    if not isinstance(answer, int) and list(choices).count(text) == 1:
        return letter(list(choices).index(text))
    if text.isdecimal() and int(text) < len(choices):
        return letter(int(text))
    if len(text) == 1 and 0 <= ord(text.upper()) - ord("A") < len(choices):
        return text.upper()
    return None


def answered_by(task: Task, way: Answers) -> Task:
    """The same multiple choice, answered by ``letter`` or by ``text``."""
    return replace(task, answers=way)


def rotated(task: Task, row: Row) -> list[Row]:
    """A question in every cyclic order of its options, the order as given first."""
    from multitask.metrics.choice import cyclic_orders

    return [_reworded(task, row, order) for order in cyclic_orders(len(row["choices"])).tolist()]


def _reworded(task: Task, row: Row, order: Sequence[int] | None = None) -> Row:
    """A row as another definition of its task words it, or with its options in another order."""
    choices, right = tuple(row["choices"]), ord(row["answer"]) - ord("A")
    order = list(order) if order is not None else list(range(len(choices)))
    options = tuple(choices[option] for option in order)
    example = Example(row["id"], row["text"], letter(order.index(right)), options)
    template = task.template(row["template"])
    messages = [
        {"role": "user", "content": task.prompt(example, template)},
        {"role": "assistant", "content": task.response(example, template)},
    ]
    return {**row, "messages": messages, "answer": example.label, "choices": options}


def _check_options(task: Task, number: int, example: Example) -> None:
    template = task.templates[number]
    task.prompt(example, template)
    labels = task.candidates(example.choices)
    responses = [
        task.response_for(label, template, choices=example.choices, row=example.id)
        for label in labels
    ]
    # Options that repeat a text are answered alike where the answer is the text.
    by_letter = task.answers == "letter"
    one_response_each(
        task,
        template.name,
        labels if by_letter else example.choices,
        responses,
        fix="use {{ answer }} in the response",
        what="label" if by_letter else "option",
        row=example.id,
    )


def _rotated(part: TaskScores) -> list[list[list[float]]]:
    """Log-scores of positions, question by question: (rotations, positions)."""
    scores = []
    place = 0
    while place < len(part.rows):
        count = len(part.rows[place]["choices"])
        scores.append(part.log_probs[place : place + count, :count].tolist())
        place += count
    return scores
