"""Classification: a text, and which of a task's classes it is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.errors import InputError
from multitask.tasks.example import Example
from multitask.tasks.kinds.base import NO_LABEL, Kind, RowReader

if TYPE_CHECKING:
    from multitask.data.rows import Rows
    from multitask.evaluation.results import ByPurpose
    from multitask.metrics.registry import Predictions
    from multitask.task_spec import TaskSpec
    from multitask.tasks.task import Task

# Pairs of labels that are taken for each other, the most frequent ones.
_CONFUSIONS = 200


class Classification(Kind):
    """A text is of one of some classes."""

    name = "classification"
    columns = (("text", "label"),)
    keys = frozenset({"labels", "positive_label"})
    classes = True
    hub_task = "text-classification"
    sections = frozenset({"confusion"})

    def reader(
        self, spec: TaskSpec, labels: Sequence[str] | None, paths: Sequence[Path]
    ) -> RowReader:
        """See :meth:`Kind.reader`."""
        del spec, paths
        return ClassReader(labels)

    def labels_of(
        self, rows: Rows, spec: TaskSpec, path: Path, notes: list[str]
    ) -> list[str] | None:
        """See :meth:`Kind.labels_of`; warns of labels that differ in case alone."""
        counts = rows.label_counts
        if len(counts) == 1:
            raise InputError(
                f"every row of task {spec.name!r} has the label {next(iter(counts))!r}",
                where=path,
                fix="a classification needs at least two labels; is `columns.label` right?",
            )
        notes += alike(counts, spec, path)
        return sorted(counts)

    def details(self, task: Task, parts: ByPurpose, rows: Predictions) -> dict[str, Any]:
        """Scores of each label, and pairs of labels that are taken for each other."""
        from dataclasses import asdict

        import numpy as np

        from multitask.metrics.classification import confusion_matrix, per_label

        del parts
        counts = confusion_matrix(rows)
        np.fill_diagonal(counts, 0)
        pairs = sorted(zip(*np.nonzero(counts), strict=True), key=lambda p: (-counts[p], p))
        found = [scores for scores in per_label(rows) if scores.support or scores.predicted]
        return {
            "per_label": [asdict(scores) for scores in found],
            "confusions": [
                {"gold": task.labels[g], "predicted": task.labels[p], "rows": int(counts[g, p])}
                for g, p in pairs[:_CONFUSIONS]
            ],
        }


def alike(counts: Mapping[str, int], spec: TaskSpec, path: Path) -> list[str]:
    """Warnings of labels that differ in case alone.

    Raises:
        InputError: Two labels look the same.
    """
    from multitask.data.fingerprint import normalised
    from multitask.task_spec import looks_like

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


def unknown_label(label: str, known: Iterable[str]) -> str:
    """Why a row is left out whose label is not in the label space."""
    close = get_close_matches(label[:80], list(known), n=1)
    nearest = f", did you mean {close[0]!r}?" if close else ""
    return f"the label is none of the declared ones: {label[:80]!r}{nearest}"


class ClassReader:
    """Makes rows of a class, one by one or many at once."""

    def __init__(self, labels: Sequence[str] | None) -> None:
        """Take these labels alone; None: any."""
        self.known = None if labels is None else dict.fromkeys(labels)
        # Labels are few and rows many: each spelling is looked at once, and rows share its text.
        self._spellings: dict[str, str] = {}

    def __call__(self, row_id: str, values: tuple[Any, ...]) -> Example | str:
        """See :data:`RowReader`."""
        text, label = values
        if type(text) is not str or not text or text.isspace():
            return "no text"
        if type(label) is not str:
            if label is None or isinstance(label, (list, dict, float)):
                return NO_LABEL
            label = str(label)
        clean = self._spellings.get(label)
        if clean is None:
            clean = self.clean(label)
            if not clean:
                return NO_LABEL
            if self.known is not None and clean not in self.known:
                return unknown_label(clean, self.known)
            self._spellings[label] = clean
        return Example(row_id, text, clean)

    def clean(self, label: str) -> str:
        """A label as it is meant."""
        return label.strip()

    def many(self, ids: Any, texts: Any, labels: Any) -> Rows | None:
        """The rows of columns, when every text is one and every label's spelling is good."""
        import pyarrow as pa

        from multitask.data.rows import Rows, arrow, spaced, text_column

        if not (isinstance(texts, pa.Array) and isinstance(labels, pa.Array)):
            return None
        doubtful = texts.take(arrow(spaced(texts))).to_pylist()
        if any(not text.strip() for text in doubtful):
            return None
        labels = labels.dictionary_encode()
        spellings = labels.dictionary.to_pylist()
        if any(isinstance(self("", ("any", spelling)), str) for spelling in spellings):
            return None
        clean = text_column([self._spellings[spelling] for spelling in spellings])
        return Rows.of_columns(ids, texts, clean.take(labels.indices))
