"""What a kind of task decides: all that depends on what sort of answer a task wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from multitask.errors import InputError
from multitask.tasks.example import Example

if TYPE_CHECKING:
    from multitask.data.leakage import Part
    from multitask.data.mixture import Indices
    from multitask.data.rows import Rows
    from multitask.evaluation.requests import Settings
    from multitask.evaluation.results import ByPurpose
    from multitask.metrics.registry import Predictions
    from multitask.task_spec import TaskSpec, TemplatesSpec
    from multitask.tasks.task import Task

NO_LABEL = "no label"
"""Why a row is left out that has no answer; a split of a benchmark may hold nothing else."""

RowReader = Callable[[str, tuple[Any, ...]], "Example | str"]
"""Makes a row of its id and the values of its columns, or says why it cannot be used."""

Row = dict[str, Any]


class Kind:
    """What sort of answer a task wants, and all that follows from it.

    There is one object of each kind, in :data:`multitask.tasks.kinds.KINDS`; ``str`` gives its
    name. What is defined here suits a closed set of answers.

    Attributes:
        name: In specs, manifests and results.
        columns: The parts that a row is made of, one tuple for each form that a file can have.
        list_columns: Parts that several columns can stand for.
        keys: Keys of a task's mapping that belong to this kind, and perhaps to others.
        own_keys: Those that no other kind has, with what makes a value of what the user wrote and
            raises ValueError where it cannot.
        closed: Whether a row's answer is one of a closed set that is scored, or a text that is
            generated.
        classes: Whether that set is the same for all rows: these are its classes, which splits
            keep even, and the gold answer of a row of data is its ``label``, else its ``answer``.
        exhaustive: Whether answers are so few that all of them are scored in any case.
        headline: The metric that stands for a task.
        also: Metrics of other kinds that it has too.
        hub_task: The task type of the Hub's model index.
        sections: What a report has besides: ``confusion``, ``positions``.
        measures: Fields of :class:`~multitask.metrics.registry.Predictions` that metrics may need.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[tuple[str, ...], ...]]
    list_columns: ClassVar[frozenset[str]] = frozenset()
    keys: ClassVar[frozenset[str]] = frozenset()
    own_keys: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    closed: ClassVar[bool] = True
    classes: ClassVar[bool] = False
    exhaustive: ClassVar[bool] = False
    headline: ClassVar[str] = "accuracy"
    also: ClassVar[tuple[str, ...]] = ()
    hub_task: ClassVar[str]
    sections: ClassVar[frozenset[str]] = frozenset()
    measures: ClassVar[frozenset[str]] = frozenset({"log_probs", "residual_mass"})

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def __reduce__(self) -> tuple[Any, ...]:
        from multitask.tasks.kinds import kind_named

        return kind_named, (self.name,)

    @property
    def gold_key(self) -> str:
        """The key of the gold answer in a row of data."""
        return "label" if self.classes else "answer"

    # Reading

    def declared_labels(self, spec: TaskSpec) -> list[str] | None:
        """The label space that a mapping gives; None where its rows do.

        Raises:
            ValueError: It lacks a key.
        """
        return spec.labels

    def reader(
        self, spec: TaskSpec, labels: Sequence[str] | None, paths: Sequence[Path]
    ) -> RowReader:
        """What makes rows of files; with ``many(ids, *columns)``, many at once where it can.

        Args:
            spec: The task's mapping.
            labels: Its label space, where it is known yet.
            paths: The files.

        Raises:
            InputError: How a file is to be read cannot be known.
        """
        raise NotImplementedError

    def labels_of(
        self, rows: Rows, spec: TaskSpec, path: Path, notes: list[str]
    ) -> list[str] | None:
        """The label space that the training rows give, for a task that declares none.

        Args:
            rows: The training rows.
            spec: The task's mapping.
            path: Their file, for messages.
            notes: Takes what the user should know.

        Raises:
            InputError: They give none.
        """
        del rows, spec, path, notes
        return None

    def label_space(
        self, labels: Sequence[str] | None, splits: Mapping[str, Sequence[Example]]
    ) -> tuple[str, ...]:
        """The label space of a task whose rows are all read."""
        del splits
        return tuple(labels or ())

    def define(self, task: Task) -> Task:
        """A task's definition with what this kind alone puts into it; ``labels`` are those read."""
        return task

    # Wording

    def variables(self, example: Example) -> dict[str, object]:
        """The variables of a prompt that an example gives."""
        return {
            "text": example.text,
            "question": example.text,
            "prompt": example.text,
            "instruction": example.text,
            "input": example.context,
            "choices": example.choices,
        }

    def row_fields(self, example: Example) -> dict[str, object]:
        """What a row of data holds of an example besides its text and gold answer."""
        return {"choices": example.choices} if example.choices else {}

    def answer(self, task: Task, label: str, choices: tuple[str, ...]) -> str:
        """The ``answer`` that a response can name, of a label of a row with these options."""
        del task, choices
        return label

    def candidates(self, task: Task, choices: tuple[str, ...]) -> tuple[str, ...]:
        """The labels that a row with these options can have."""
        del choices
        return task.labels

    def own_responses(self, task: Task) -> bool:
        """Whether the responses to the labels differ from row to row."""
        del task
        return False

    def specimen(self, task: Task) -> Example:
        """An example that is in no dataset."""
        return Example(
            "example", "I ordered a card two weeks ago and it has not arrived.", task.labels[0]
        )

    def without_content(self, task: Task, text: str) -> Example:
        """A row that says nothing but ``text``; its label means nothing."""
        return Example("", text, task.labels[0])

    # Preparing

    def arrange(
        self, task: Task, part: Part, words: TemplatesSpec, *, official: bool, seed: int
    ) -> Part:
        """Put the rows of a split into the form in which they are asked.

        Args:
            task: The task.
            part: The rows, divided and without leaks.
            words: How the spec wants tasks worded.
            official: Whether the source itself says that these are test rows, or they are a
                general task's: none is trained on.
            seed: Seeds what is drawn.
        """
        del task, words, official, seed
        return part

    def check_prompts(self, task: Task, rows: Sequence[Example], prompts: Sequence[str]) -> None:
        """See that the prompts of rows show all that the answer needs; templates have one each.

        Raises:
            InputError: They do not.
        """

    def check_rows(
        self, task: Task, parts: Mapping[str, Part], phrasings: Mapping[str, Indices]
    ) -> None:
        """See that each held-out row can be asked in every way in which evaluation asks it.

        Raises:
            InputError: It cannot.
        """

    def p_values(self, task: Task, part: Part) -> dict[str, float]:
        """Chances of training rows as uneven as these, by the name of the check."""
        del task, part
        return {}

    # Scoring

    def asked_otherwise(
        self, task: Task, rows: Sequence[Row], settings: Settings
    ) -> Iterator[tuple[str, Task, list[Row]]]:
        """Other ways to ask rows: purpose, definition and rows of each."""
        del task, rows, settings
        yield from ()

    def parse(self, task: Task, rows: Sequence[Row], texts: Sequence[str]) -> list[str | None]:
        """The label that each freely generated answer names; None: off-list.

        By the rules of :mod:`multitask.metrics.text`; a label is named by its whole response in
        the row's phrasing, or by itself.
        """
        from multitask.metrics.text import parse_labels

        parsed: list[str | None] = []
        known: dict[str, tuple[tuple[str, ...], list[str]]] = {}
        for row, text in zip(rows, texts, strict=True):
            choices, name = tuple(row.get("choices", ())), row["template"]
            if choices or name not in known:
                labels, template = task.candidates(choices), task.template(name)
                responses = [
                    task.response_for(label, template, choices=choices) for label in labels
                ]
                known[name] = labels, responses
            labels, responses = known[name]
            (named,) = parse_labels([text], responses)
            if named is not None:
                parsed.append(labels[responses.index(named)])
            else:
                parsed += [None] if choices else parse_labels([text], labels)
        return parsed

    def baselines(self, train: Sequence[Row], rows: Sequence[Row]) -> dict[str, list[str]]:
        """What baselines that learn from the training rows answer to rows, by their name."""
        from multitask.evaluation.baselines import BASELINES

        return {name: baseline(train, rows) for name, baseline in BASELINES.items()}

    # Measuring

    def add_metrics(self) -> None:
        """Register the metrics of this kind."""
        from multitask.metrics.registry import METRICS

        for name in self.also:
            known = METRICS[name]
            METRICS[name] = replace(known, kinds=(*known.kinds, self.name))

    def item(self, row_id: str) -> str:
        """The item that a row of data comes from: rows of one are resampled together."""
        return row_id

    def measured(self, task: Task, parts: ByPurpose, rows: Predictions) -> Predictions:
        """All that metrics look at; those of a kind are in :mod:`multitask.metrics.registry`.

        Args:
            task: The task.
            parts: All that the model was asked, by purpose.
            rows: Gold and predicted answers, with log-probabilities where they are wanted.
        """
        del task, parts
        return rows

    def details(self, task: Task, parts: ByPurpose, rows: Predictions) -> dict[str, Any]:
        """What results.json says of such a task besides; arguments as of :meth:`measured`."""
        del task, parts, rows
        return {}


def one_response_each(
    task: Task,
    template: str,
    meanings: Sequence[str],
    responses: Sequence[str],
    *,
    fix: str,
    what: str = "label",
    row: str = "",
) -> None:
    """See that answers that mean different things have different responses.

    Args:
        task: The task.
        template: The name of the phrasing.
        meanings: What each answer means.
        responses: Its response.
        fix: What to do where they are the same.
        what: What a meaning is called.
        row: The row whose answers they are; none: all rows'.

    Raises:
        InputError: Two are the same, or one is empty.
    """
    seen: dict[str, str] = {}
    for meaning, response in zip(meanings, responses, strict=True):
        other = seen.setdefault(response, meaning)
        if response and other == meaning:
            continue
        raise InputError(
            f"the {what}s {other!r} and {meaning!r} give the same response {response!r}"
            if response
            else f"the {what} {meaning!r} gives an empty response",
            where=f"task {task.name!r}: template {template!r}" + (f", row {row!r}" if row else ""),
            fix=fix,
        )
