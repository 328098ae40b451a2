"""A user's own task: an adapter made from a mapping in the spec, with no Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from multitask.data.adapters import Adapter, Files, HubDataset, TaskData
from multitask.data.fingerprint import normalised
from multitask.data.readers import Rejects, columns_of, select_blocks
from multitask.errors import InputError, did_you_mean
from multitask.task_spec import SourceSpec, TaskSpec, looks_like
from multitask.tasks import Example, Kind, letter

# The parts that a kind of task is made of, and the columns that stand in for one another.
_PARTS = {
    Kind.CLASSIFICATION: (("text", "label"),),
    Kind.MULTIPLE_CHOICE: (("question", "choices", "answer"),),
    Kind.GENERATION: (
        ("prompt", "response"),
        ("instruction", "input", "output"),
        ("instruction", "output"),
    ),
}
_MAX_OPTIONS = 26
NO_LABEL = "no label"

Make = Callable[[str, tuple[Any, ...]], "Example | str"]


def mapped_adapter(spec: TaskSpec) -> Adapter:
    """Make the adapter of a declared task.

    Args:
        spec: The mapping; its paths are absolute.

    Raises:
        InputError: ``columns`` names a part that this kind of task does not have.
    """
    _check_parts(spec)
    source = spec.source

    def read(files: Files, rejects: Rejects) -> TaskData:
        return _read(spec, files, rejects)

    return Adapter(
        name=spec.name,
        hub=_hub(source),
        files={} if source.hub else _paths(source),
        read=read,
        optional_splits=("validation", "test") if source.hub else (),
        max_bad_rows=spec.max_bad_rows,
    )


def _hub(source: SourceSpec) -> tuple[HubDataset, ...]:
    if source.hub is None:
        return ()
    return (HubDataset(source.hub, source.revision or "main", config=source.config),)


def _paths(source: SourceSpec) -> dict[str, str]:
    if source.path is not None:
        return {"train": source.path}
    named = {"train": source.train, "validation": source.validation, "test": source.test}
    return {split: path for split, path in named.items() if path is not None}


def _check_parts(spec: TaskSpec) -> None:
    known = {part for parts in _PARTS[spec.kind] for part in parts} | {"id"}
    for part, column in spec.columns.items():
        if part not in known:
            raise InputError(
                f"a {spec.kind} task has no part {part!r}",
                where=f"task {spec.name!r}: key 'columns'",
                fix=did_you_mean(part, known),
            )
        if isinstance(column, list) and part != "choices":
            raise InputError(
                "only `choices` may be a list of columns",
                where=f"task {spec.name!r}: key 'columns.{part}'",
            )


def _read(spec: TaskSpec, files: Files, rejects: Rejects) -> TaskData:
    labels = spec.labels
    splits: dict[str, list[Example]] = {}
    for split in ("train", "validation", "test"):
        if split not in files:
            continue
        make = _maker(spec, labels)
        own = Rejects(limit=None, on_rows=rejects.on_rows, looked_at=rejects.looked_at)
        rows = _examples(spec, split, files[split], make, own)
        rejects.looked_at = own.looked_at
        if spec.source.hub and split != "train" and not rows and set(own.reasons) == {NO_LABEL}:
            # As the test splits of benchmarks whose answers are kept back.
            rejects.notes.append(f"the {split} split has no labels, so it is left out")
            continue
        rejects.take(own)
        splits[split] = rows
        if split == "train" and spec.kind is Kind.CLASSIFICATION and labels is None:
            counts = Counter(example.label for example in rows)
            labels = sorted(counts)
            _require_classes(labels, spec, files["train"][0])
            rejects.notes += _alike(counts, spec, files["train"][0])
    if spec.kind is Kind.MULTIPLE_CHOICE:
        most = max((len(e.choices) for rows in splits.values() for e in rows), default=0)
        labels = [letter(i) for i in range(most)]
    return TaskData(labels=tuple(labels or ()), splits=splits)


def _alike(counts: Counter[str], spec: TaskSpec, path: Path) -> list[str]:
    """Warnings of labels that differ in case alone.

    Raises:
        InputError: Two labels look the same.
    """
    notes = []
    seen: dict[str, str] = {}
    for label in sorted(counts):
        other = seen.setdefault(normalised(label), label)
        if other == label:
            continue
        both = f"{other!a} ({counts[other]:,} rows) and {label!a} ({counts[label]:,} rows)"
        if looks_like(other) == looks_like(label):
            raise InputError(
                f"the labels {both} of task {spec.name!r} look the same",
                where=path,
                fix="they differ in Unicode form or in invisible characters; make them one",
            )
        notes.append(f"the labels {both} differ in case or spaces alone, and are two classes")
    return notes


def _require_classes(labels: Sequence[str], spec: TaskSpec, path: Path) -> None:
    if len(labels) == 1:
        raise InputError(
            f"every row of task {spec.name!r} has the label {labels[0]!r}",
            where=path,
            fix="a classification needs at least two labels; is `columns.label` right?",
        )


def _examples(
    spec: TaskSpec, split: str, paths: Iterable[Path], make: Make, rejects: Rejects
) -> list[Example]:
    examples: list[Example] = []
    seen: set[str] = set()
    for number, path in enumerate(paths):
        columns, id_given = _columns(spec, path)
        prefix = f"{split}-" if number == 0 else f"{split}-{number}-"
        for block in select_blocks(path, columns, rejects):
            if isinstance(make, _Classification) and not id_given:
                plain = make.many([f"{prefix}{row}" for row in block.rows], *block.columns)
                if plain is not None:
                    examples += plain
                    continue
            for row, values in zip(block.rows, zip(*block.columns, strict=True), strict=True):
                row_id = f"{prefix}{row}"
                if id_given:
                    row_id, values = str(values[0]), values[1:]  # noqa: PLW2901
                    if row_id in seen:
                        rejects.add(path, row, "duplicate id", detail=repr(row_id[:80]))
                        continue
                    seen.add(row_id)
                example = make(row_id, values)
                if type(example) is Example:
                    examples.append(example)
                else:
                    reason, _, detail = str(example).partition(": ")
                    rejects.add(path, row, reason, detail=detail)
    return examples


def _columns(spec: TaskSpec, path: Path) -> tuple[list[str], bool]:
    """The columns to read, in the order of the kind's parts, the id first where it is mapped."""
    known = columns_of(path)
    named: dict[str, list[str]] = {
        part: column if isinstance(column, list) else [column]
        for part, column in spec.columns.items()
    }
    # A part that is named must be read: a form without it does not do, whatever the file has.
    wanted = named.keys() - {"id"}
    forms = [parts for parts in _PARTS[spec.kind] if wanted <= set(parts)]
    if not forms:
        raise InputError(
            f"{', '.join(sorted(wanted))} belong to no one form of a {spec.kind} task",
            where=f"task {spec.name!r}: key 'columns'",
            fix=f"name parts of one of: {'; '.join(map(', '.join, _PARTS[spec.kind]))}",
        )
    for parts in forms:
        chosen = {part: named.get(part, [part]) for part in parts}
        if all(column in known for columns in chosen.values() for column in columns):
            ids = named.get("id", [])
            return [*ids, *(c for part in parts for c in chosen[part])], bool(ids)
    parts = forms[0]
    for part in parts:
        for column in named.get(part, [part]):
            if column not in known:
                raise InputError(
                    f"no column {column!r} for the {part}",
                    where=f"{path}: task {spec.name!r}",
                    fix=f"{did_you_mean(column, known)} Map it: columns: {{{part}: NAME}}",
                )
    raise InputError(f"the columns {', '.join(known)} fit no form", where=path)


def _maker(spec: TaskSpec, labels: Sequence[str] | None) -> Make:
    if spec.kind is Kind.CLASSIFICATION:
        return _Classification(labels)
    if spec.kind is Kind.MULTIPLE_CHOICE:
        return _multiple_choice(spec)
    return _generation


class _Classification:
    """Makes rows of a class, one by one or many at once."""

    def __init__(self, labels: Sequence[str] | None) -> None:
        self._known = None if labels is None else set(labels)
        # Labels are few and rows many: each spelling is looked at once, and rows share its text.
        self._spellings: dict[str, str] = {}

    def __call__(self, row_id: str, values: tuple[Any, ...]) -> Example | str:
        text, label = values
        if type(text) is not str or not text or text.isspace():
            return "no text"
        if type(label) is not str:
            if label is None or isinstance(label, (list, dict, float)):
                return NO_LABEL
            label = str(label)
        clean = self._spellings.get(label)
        if clean is None:
            clean = label.strip()
            if not clean:
                return NO_LABEL
            if self._known is not None and clean not in self._known:
                return f"the label is none of the declared ones: {clean[:80]!r}"
            self._spellings[label] = clean
        return Example(row_id, text, clean)

    def many(
        self, ids: Sequence[str], texts: Sequence[Any], labels: Sequence[Any]
    ) -> list[Example] | None:
        """The rows, when every text is one and every label's spelling is known or good."""
        if set(map(type, texts)) != {str} or set(map(type, labels)) != {str}:
            return None
        if "" in texts or any(map(str.isspace, texts)):
            return None
        for label in set(labels) - self._spellings.keys():
            if isinstance(self("", ("any", label)), str):
                return None
        clean = map(self._spellings.__getitem__, labels)
        parts = zip(ids, texts, clean, repeat(()), repeat(""), strict=False)
        return list(map(Example._make, parts))


def _multiple_choice(spec: TaskSpec) -> Make:
    several = spec.columns.get("choices")
    count = len(several) if isinstance(several, list) else 1

    def make(row_id: str, values: tuple[Any, ...]) -> Example | str:
        question, answer = values[0], values[-1]
        if not isinstance(question, str) or not question.strip():
            return "no question"
        choices = values[1:-1] if count > 1 else values[1]
        if isinstance(choices, dict):  # as CommonsenseQA and ARC have it
            choices = choices.get("text")
        if not isinstance(choices, (list, tuple)) or not 2 <= len(choices) <= _MAX_OPTIONS:
            return f"the options are no list of 2 to {_MAX_OPTIONS}"
        texts = tuple("" if choice is None else str(choice).strip() for choice in choices)
        if "" in texts:
            return "an option is empty"
        gold = option_letter(answer, texts)
        if gold is None:
            return f"the answer is no option: {str(answer)[:80]!r}"
        return Example(row_id, question, gold, texts)

    return make


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


def _generation(row_id: str, values: tuple[Any, ...]) -> Example | str:
    prompt, response = values[0], values[-1]
    context = values[1] if len(values) == 3 else ""
    if not isinstance(prompt, str) or not prompt.strip():
        return "no prompt"
    if not isinstance(response, str) or not response.strip():
        return "no response"
    return Example(row_id, prompt, response, context=context if isinstance(context, str) else "")
