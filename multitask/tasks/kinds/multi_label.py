"""Multi-label: a text, and all of a task's labels that hold of it.

Each label is asked for by itself, with a prompt that names it, and answered yes or no: in
training and in evaluation alike. A row of the source becomes a row of data per label, of the same
split; ``asked`` says which label it is about, and its id is the source's with ``#label``. All rows
that are held out ask for every label. Training rows do so for up to eight labels; where a task has
more, for those that hold, and for others, drawn by the row's content, up to eight. There are then
more yeses in training than in evaluation, which the thresholds fitted on validation make up for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.errors import InputError
from multitask.tasks.example import Example
from multitask.tasks.kinds.base import NO_LABEL, Kind, Row, RowReader
from multitask.tasks.kinds.classification import alike, unknown_label

if TYPE_CHECKING:
    from multitask.data.leakage import Part
    from multitask.evaluation.results import ByPurpose
    from multitask.metrics.intervals import Bools, Floats, Ints
    from multitask.metrics.registry import Predictions, Statistic
    from multitask.task_spec import TaskSpec, TemplatesSpec
    from multitask.tasks.task import Task

_NO, _YES = "no", "yes"
_SEPARATORS = (";", ",", "|")
# Between the labels of a row that is read and not yet asked; in no file's text.
_JOINT = "\x1f"
# Questions about a training row: all labels, or those that hold and some that do not.
_ASKED = 8


class MultiLabel(Kind):
    """Any number of labels hold of a text; each is a question of its own."""

    name = "multi_label"
    columns = (("text", "labels"),)
    keys = frozenset({"labels"})
    exhaustive = True
    headline = "label_micro_f1"
    measures = Kind.measures | {"asked", "fitted"}
    hub_task = "text-classification"

    # Reading

    def reader(
        self, spec: TaskSpec, labels: Sequence[str] | None, paths: Sequence[Path]
    ) -> RowReader:
        """See :meth:`Kind.reader`."""
        separator = spec.own("separator") or _separator(spec, labels, paths)
        known = None if labels is None else set(labels)
        may_be_empty = bool(spec.own("allow_empty"))

        def read(row_id: str, values: tuple[Any, ...]) -> Example | str:
            text, cell = values
            if not isinstance(text, str) or not text.strip():
                return "no text"
            if isinstance(cell, str):
                cell = cell.split(separator) if separator else [cell]
            if cell is None or isinstance(cell, (dict, float)):
                cell = []
            names = [str(n).strip() for n in (cell if isinstance(cell, (list, tuple)) else [cell])]
            found = sorted({name for name in names if name})
            if not found and not may_be_empty:
                return f"{NO_LABEL}: (`allow_empty: true` takes such rows)"
            strange = [] if known is None else [name for name in found if name not in known]
            if strange:
                return unknown_label(strange[0], labels or ())
            return Example(row_id, text, _JOINT.join(found))

        return read

    def labels_of(
        self, rows: Sequence[Example], spec: TaskSpec, path: Path, notes: list[str]
    ) -> list[str] | None:
        """See :meth:`Kind.labels_of`; warns of labels that differ in case alone."""
        counts = Counter(label for row in rows for label in _parts(row.label))
        if not counts:
            raise InputError(
                f"no row of task {spec.name!r} has a label",
                where=path,
                fix="is `columns.labels` right?",
            )
        notes += alike(counts, spec, path)
        return sorted(counts)

    def define(self, task: Task) -> Task:
        """See :meth:`Kind.define`."""
        return replace(
            task,
            labels=(_NO, _YES),
            asked_labels=task.labels,
            positive_label=_YES,
            list_labels=False,
        )

    # Wording

    def variables(self, example: Example) -> dict[str, object]:
        """See :meth:`Kind.variables`; ``label`` is the one that is asked for."""
        return {**super().variables(example), "input": "", "label": example.context}

    def row_fields(self, example: Example) -> dict[str, object]:
        """See :meth:`Kind.row_fields`."""
        return {"asked": example.context}

    def specimen(self, task: Task) -> Example:
        """See :meth:`Kind.specimen`."""
        return super().specimen(task)._replace(context=(*task.asked_labels, "delivery")[0])

    def without_content(self, task: Task, text: str) -> Example:
        """See :meth:`Kind.without_content`."""
        return Example("", text, _NO, context=task.asked_labels[0])

    # Preparing

    def arrange(
        self, task: Task, part: Part, words: TemplatesSpec, *, official: bool, seed: int
    ) -> Part:
        """A row for each label that is asked for; see the module."""
        import numpy as np

        from multitask.data.leakage import Part
        from multitask.data.rows import Rows

        del words
        rows: list[Example] = []
        for row, key in zip(part.examples, part.keys.tolist(), strict=True):
            hold = set(_parts(row.label))
            asked: Sequence[str] = task.asked_labels
            if part.split == "train" and not official and len(asked) > _ASKED:
                others = [label for label in asked if label not in hold]
                rng = np.random.default_rng([seed, key])
                some = rng.permutation(len(others))[: max(1, _ASKED - len(hold))]
                chosen = hold | {others[i] for i in some}
                asked = [label for label in asked if label in chosen]
            rows += [
                Example(
                    f"{row.id}#{_in_an_id(label)}",
                    row.text,
                    _YES if label in hold else _NO,
                    context=label,
                )
                for label in asked
            ]
        return Part(part.task, part.split, Rows.of(rows))

    def check_prompts(self, task: Task, rows: Sequence[Example], prompts: Sequence[str]) -> None:
        """See that a prompt names the label that it asks for."""
        (template,) = task.templates
        if len(task.asked_labels) < 2:
            return
        turned = dict(zip(task.asked_labels, reversed(task.asked_labels), strict=True))
        others = [row._replace(context=turned[row.context]) for row in rows]
        if [task.prompt(row, template) for row in others] == prompts:
            raise InputError(
                "the prompt does not name the label that it asks for",
                where=f"task {task.name!r}: template {template.name!r}",
                fix="put {{ label }} into it",
            )

    # Measuring

    def item(self, row_id: str) -> str:
        """See :meth:`Kind.item`."""
        return row_id.rpartition("#")[0] or row_id

    def baselines(self, train: Sequence[Row], rows: Sequence[Row]) -> dict[str, list[str]]:
        """See :meth:`Kind.baselines`; each label has baselines of its own."""
        found: dict[str, list[str]] = {}
        asked = [row["asked"] for row in rows]
        for label in dict.fromkeys(asked):
            places = [i for i, one in enumerate(asked) if one == label]
            own = [row for row in train if row["asked"] == label]
            answers = super().baselines(own, [rows[i] for i in places]) if own else {}
            for name, some in answers.items():
                of_all = found.setdefault(name, [_NO] * len(rows))
                for place, answer in zip(places, some, strict=True):
                    of_all[place] = answer
        return found

    def add_metrics(self) -> None:
        """See :meth:`Kind.add_metrics`."""
        from multitask.metrics.registry import metric

        own = partial(metric, kinds=(self.name,), needs=("asked",))
        own(name="label_micro_f1", title="Micro-F1 of labels")(micro_f1)
        own(name="label_macro_f1", title="Macro-F1 of labels")(macro_f1)
        own(name="subset_accuracy", title="Subset accuracy")(subset_accuracy)
        own(name="hamming_loss", title="Hamming loss", higher_is_better=False)(hamming_loss)
        own = partial(metric, kinds=(self.name,), needs=("asked", "fitted"))
        own(name="fitted_micro_f1", title="Micro-F1 of labels, fitted thresholds")(fitted_micro_f1)
        own(name="fitted_macro_f1", title="Macro-F1 of labels, fitted thresholds")(fitted_macro_f1)

    def measured(self, task: Task, found: ByPurpose, rows: Predictions) -> Predictions:
        """See :meth:`Kind.measured`; also what thresholds fitted on validation answer."""
        from multitask.evaluation.requests import Purpose

        asked = found[Purpose.SCORES].rows
        rows = replace(rows, asked=[row["asked"] for row in asked])
        thresholds = _thresholds(task, found)
        if not thresholds or rows.log_probs is None:
            return rows
        yes = probability_of_yes(rows)
        limits = [thresholds[row["asked"]] for row in asked]
        return replace(
            rows, fitted=[_YES if p >= limit else _NO for p, limit in zip(yes, limits, strict=True)]
        )

    def details(self, task: Task, found: ByPurpose, rows: Predictions) -> dict[str, Any]:
        """Precision, recall and F1 of each label, and its threshold where there is validation."""
        import numpy as np

        from multitask.metrics.classification import per_label

        asked, of_labels = np.array(rows.asked), []
        for label in task.asked_labels:
            own = rows.take(np.flatnonzero(asked == label))
            if len(own):
                scores = next(one for one in per_label(own) if one.label == _YES)
                of_labels.append({**asdict(scores), "label": label})
        thresholds = _thresholds(task, found)
        return {
            "per_label": of_labels,
            **({"of_kind": {"thresholds": thresholds}} if thresholds else {}),
        }


def _in_an_id(label: str) -> str:
    """A label without the mark that its id begins with; no two labels give the same."""
    return label.replace("%", "%25").replace("#", "%23")


def _parts(joined: str) -> list[str]:
    return joined.split(_JOINT) if joined else []


def separator(given: object) -> str:
    """What stands between labels.

    Raises:
        ValueError: It is no text.
    """
    if not isinstance(given, str) or not given:
        raise ValueError("`separator` is what stands between the labels of a cell, such as ';'")
    return given


def allow_empty(given: object) -> bool:
    """Whether a row may have no label at all.

    Raises:
        ValueError: It is neither true nor false.
    """
    if not isinstance(given, bool):
        raise ValueError("`allow_empty` is neither true nor false")
    return given


MultiLabel.own_keys = {"separator": separator, "allow_empty": allow_empty}


def _separator(spec: TaskSpec, labels: Sequence[str] | None, paths: Sequence[Path]) -> str | None:
    """The one separator that the cells of files hold; None where they hold none.

    Raises:
        InputError: They hold several.
    """
    from multitask.data.mapping import columns_for
    from multitask.data.readers import Rejects, select

    possible = [s for s in _SEPARATORS if not any(s in label for label in labels or ())]
    found: dict[str, Path] = {}
    for path in paths:
        column = columns_for(spec, path)[0][-1]
        for _, (cell,) in select(path, [column], Rejects(limit=None)):
            for one in possible if isinstance(cell, str) else ():
                if one in cell:
                    found.setdefault(one, path)
    if len(found) > 1:
        both = " and ".join(map(repr, found))
        raise InputError(
            f"the labels of task {spec.name!r} hold {both}, and one of these divides them",
            where=next(iter(found.values())),
            fix="say which, as `separator: ';'`, or name the `labels`",
        )
    return next(iter(found), None)


def probability_of_yes(rows: Predictions) -> Floats:
    """P(yes) / (P(yes) + P(no)) of each row."""
    import numpy as np

    found: Floats = np.exp(rows.log_softmax[:, rows.label_index[_YES]])
    return found


def best_threshold(yes: Floats, gold: Bools) -> float:
    """The least probability of yes that gives the highest F1.

    It lies midway between two probabilities that occur, so that rows near them stay on their side;
    0.5 where no row is yes, and, of equal F1, nearest to 0.5.
    """
    import numpy as np

    if not gold.any():
        return 0.5
    order = np.argsort(-yes, kind="stable")
    ranked, hits = yes[order], np.cumsum(gold[order])
    # A cut after the last of equal probabilities.
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    f1 = 2 * hits[ends] / (ends + 1 + gold.sum())
    below = np.r_[ranked, 0.0][ends + 1]
    cuts = (ranked[ends] + below) / 2
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])


def _thresholds(task: Task, found: ByPurpose) -> dict[str, float]:
    """Of each label, the threshold that is best on validation; nothing without validation."""
    import numpy as np

    from multitask.evaluation.requests import Purpose

    if Purpose.VALIDATION not in found:
        return {}
    validation = found[Purpose.VALIDATION]
    asked = np.array([row["asked"] for row in validation.rows])
    rows = validation.predictions()
    yes, gold = probability_of_yes(rows), np.array(rows.gold) == _YES
    return {
        label: best_threshold(yes[asked == label], gold[asked == label])
        for label in task.asked_labels
    }


def _counts(rows: Predictions) -> tuple[Bools, Bools, Ints]:
    """Whether each question's answer is yes by gold and by the model, and its label's number."""
    import numpy as np

    gold = np.array([one == _YES for one in rows.gold])
    predicted = np.array([one == _YES for one in rows.predicted])
    _, label = np.unique(np.array(rows.asked), return_inverse=True)
    return gold, predicted, label.astype(np.int64)


def micro_f1(rows: Predictions) -> Statistic:
    """F1 of the true and false positives and false negatives of all labels together.

    As scikit-learn's ``f1_score(average="micro")`` on indicators of labels; an answer that is
    neither yes nor no is a no.
    """
    from multitask.metrics.intervals import ratio
    from multitask.metrics.registry import Statistic

    gold, predicted, _ = _counts(rows)
    hits, both = (gold & predicted).astype(float), gold.astype(float) + predicted
    return Statistic(lambda weights: ratio(2 * (weights @ hits), weights @ both))


def macro_f1(rows: Predictions) -> Statistic:
    """Unweighted mean of the labels' F1.

    As scikit-learn's ``f1_score(average="macro", zero_division=nan)`` on indicators of labels: a
    label that is neither right nor answered anywhere is left out.
    """
    import numpy as np

    from multitask.metrics.intervals import Groups, ratio
    from multitask.metrics.registry import Statistic

    gold, predicted, label = _counts(rows)
    groups = Groups(label, int(label.max()) + 1)
    hits, both = (gold & predicted).astype(float), gold.astype(float) + predicted

    def function(weights: Floats) -> Floats:
        f1 = ratio(2 * groups.sums(weights * hits), groups.sums(weights * both))
        defined = ~np.isnan(f1)
        return ratio(np.where(defined, f1, 0.0).sum(axis=1), defined.sum(axis=1).astype(float))

    return Statistic(function)


def subset_accuracy(rows: Predictions) -> Floats:
    """Share of source rows of which every label is answered right.

    As scikit-learn's ``accuracy_score`` on indicators of labels.
    """
    import numpy as np

    from multitask.metrics.intervals import item_codes

    gold, predicted, _ = _counts(rows)
    items = item_codes(rows.items or range(len(rows)), len(rows))
    wrong = np.bincount(items, gold != predicted)
    # Each of a row's questions stands for its share of the row, so that rows count alike.
    size = np.bincount(items)
    found: Floats = (wrong == 0)[items] * (len(rows) / len(size) / size[items])
    return found


def hamming_loss(rows: Predictions) -> Bools:
    """Share of (row, label) pairs that are answered wrong; as scikit-learn's ``hamming_loss``."""
    gold, predicted, _ = _counts(rows)
    wrong: Bools = gold != predicted
    return wrong


def fitted_micro_f1(rows: Predictions) -> Statistic:
    """As :func:`micro_f1`, of the answers by each label's threshold fitted on validation."""
    return micro_f1(replace(rows, predicted=rows.fitted or ()))


def fitted_macro_f1(rows: Predictions) -> Statistic:
    """As :func:`macro_f1`, of the answers by each label's threshold fitted on validation."""
    return macro_f1(replace(rows, predicted=rows.fitted or ()))
