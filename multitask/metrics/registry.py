"""Metrics by name. A metric is one function under :func:`metric`, and nothing else.

A function of :class:`Predictions` returns a value per row, whose mean is the metric::

    @metric(name="mae", title="Mean absolute error", higher_is_better=False, unit="number",
            kinds=("rating",))
    def mae(predictions: Predictions) -> Floats:
        '''Mean distance between the predicted and the right point of the scale.'''
        return np.abs(predictions.predicted_codes - predictions.gold_codes).astype(float)

What it returns decides the 95 % interval, which is added here:

- an array of booleans: their share, with Wilson's interval;
- an array of numbers: their mean, with a bootstrap over rows;
- a :class:`Statistic`, a vectorised function of row weights (for a ratio of sums, say): the same
  bootstrap;
- a number: the same bootstrap, with a call of the function per resample, hence slow;
- an :class:`~multitask.metrics.intervals.Interval`: as it is;
- None: these rows do not define the metric, and it is left out.

With ``of="confusion"`` it is a function of a :class:`~multitask.metrics.intervals.Confusion`, for
many resamples at once; the bootstrap is then over the cells of the confusion matrix, which is exact
and quick. Where rows repeat an item (in several phrasings, say), all intervals are over items.

``kinds`` are the kinds of task that have the metric by default, in the order of definition; a
task's own choice is its key ``metrics``, where ``my_module:my_metric`` names a user's own function.
Reports, the terminal and the documentation take title, direction and unit from here.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from multitask.errors import InputError, MultitaskError, did_you_mean
from multitask.metrics.intervals import (
    Confusion,
    Floats,
    Interval,
    Ints,
    Items,
    bootstrap,
    cells,
    counter,
    means,
    share,
)

# Fields of predictions that every task can have.
_ALWAYS = frozenset({"gold", "predicted", "labels", "items", "positive_label"})

Unit = Literal["share", "number", "nats"]
"""A share of rows, or a mean of such, is shown in percent; all others as they are."""


def log_softmax(log_probs: npt.ArrayLike, residual_mass: npt.ArrayLike | None = None) -> Floats:
    """Log-probabilities over the label set from log-likelihoods.

    A label that is not finite (-inf or NaN) was not scored. Without a residual mass it is
    impossible: its probability is 0. With one, all such labels of the row share it in equal parts.
    The mass of scored labels is then a lower bound, so that the confidence of a prediction is never
    overstated by what was not scored.

    Args:
        log_probs: Log-likelihoods of shape (rows, labels); they need not be normalised.
        residual_mass: Upper bound of the share of each row's mass that lies on labels not scored,
            of shape (rows,) or one number for all; at least 0 and below 1.

    Returns:
        Log-probabilities of the same shape; each row's probabilities sum to 1.

    Raises:
        ValueError: Not a matrix, a score of +inf, a row without any score, or a mass outside its
            range; the row is named.
    """
    scores = np.array(log_probs, dtype=np.float64)
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"log-probabilities of shape {scores.shape}, not (rows, labels)")
    scored = np.isfinite(scores)
    for wrong, what in ((np.isposinf(scores).any(1), "+inf"), (~scored.any(1), "no finite score")):
        if wrong.any():
            raise ValueError(f"row {int(np.argmax(wrong))} has {what}")
    scores[~scored] = -np.inf
    highest = scores.max(axis=1, keepdims=True)
    scores -= highest + np.log(np.exp(scores - highest).sum(axis=1, keepdims=True))
    if residual_mass is None:
        return scores
    mass = np.broadcast_to(np.asarray(residual_mass, dtype=np.float64), len(scores))
    outside = ~((mass >= 0) & (mass < 1))
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"row {row} has a residual mass of {mass[row]}, not in [0, 1)")
    missing = scores.shape[1] - scored.sum(axis=1)
    mass = np.where(missing > 0, mass, 0.0)
    with np.errstate(divide="ignore"):  # log(0) is the -inf that is meant
        share_of_each = np.log(mass) - np.log(np.maximum(missing, 1))
    return np.where(scored, scores + np.log1p(-mass)[:, None], share_of_each[:, None])


@dataclass(frozen=True, eq=False)
class Predictions:
    """All rows of one task in one evaluation; everything a metric may look at.

    Attributes:
        gold: The right answer of each row: a label, an option's letter, or a reference text.
        predicted: The system's answer; None, or anything that is no label, is off-list.
        labels: The label space; empty for generated texts.
        log_probs: Log-likelihoods of shape (rows, labels), NaN or -inf where not scored.
        residual_mass: Bound of the share of each row's probability that lies on labels not scored,
            shape (rows,); None: they are impossible.
        texts: What was generated freely, if anything was.
        items: The item of each row where rows repeat one; None: each row is an item of its own.
        positive_label: Of two labels, the one that is looked for; None: the rarer one.
        asked: Of a multi-label task, the label that each row asks for.
        fitted: Its answers by thresholds that were fitted on validation.
        choices: The option texts of each multiple-choice question.
        by_letter: The letter answered to each question when the letter is asked for.
        text_scores: Log-likelihoods of each question's option texts.
        rotated: Of each question asked with its options in every cyclic order, log-scores of
            positions, shape (rotations, positions).
    """

    gold: Sequence[Any]
    predicted: Sequence[Any]
    labels: Sequence[str] = ()
    log_probs: Floats | None = None
    residual_mass: Floats | None = None
    texts: Sequence[str] | None = None
    items: Items | None = None
    positive_label: str | None = None
    asked: Sequence[str] | None = None
    fitted: Sequence[str] | None = None
    choices: Sequence[Sequence[str]] | None = None
    by_letter: Sequence[str | None] | None = None
    text_scores: Sequence[Any] | None = None
    rotated: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if len(self.gold) != len(self.predicted):
            raise ValueError(f"{len(self.gold)} gold answers but {len(self.predicted)} predictions")
        if not len(self.gold):
            raise ValueError("no rows")
        for name, column in self._columns():
            if len(column) != len(self):
                raise ValueError(f"{len(self)} rows but {len(column)} of {name}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("the label space names a label twice")
        shape = (len(self), len(self.labels))
        if self.log_probs is not None and np.shape(self.log_probs) != shape:
            raise ValueError(
                f"log-probabilities of shape {np.shape(self.log_probs)} for {shape[0]} rows, "
                f"{shape[1]} labels"
            )

    def __len__(self) -> int:
        return len(self.gold)

    def _columns(self) -> Iterator[tuple[str, Any]]:
        """What there is one of per row."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("labels", "positive_label") and value is not None:
                yield field.name, value

    def take(self, places: Ints) -> Predictions:
        """Some of the rows, or rows several times."""
        taken: dict[str, Any] = {
            name: column[places] if isinstance(column, np.ndarray) else [column[i] for i in places]
            for name, column in self._columns()
        }
        return replace(self, **taken)

    @cached_property
    def label_index(self) -> Mapping[str, int]:
        """The place of every label."""
        return {label: i for i, label in enumerate(self.labels)}

    @cached_property
    def gold_codes(self) -> Ints:
        """Gold labels as numbers in label order; ValueError where one is no label."""
        unknown = set(self.gold) - self.label_index.keys()
        if unknown:
            raise ValueError(f"gold answers not in the label space: {sorted(unknown)[:3]}")
        return np.array([self.label_index[label] for label in self.gold], dtype=np.int64)

    @cached_property
    def predicted_codes(self) -> Ints:
        """Predicted labels as numbers in label order; those off-list are the last + 1."""
        off_list = len(self.labels)
        codes = [self.label_index.get(label, off_list) for label in self.predicted]
        return np.array(codes, dtype=np.int64)

    @cached_property
    def log_softmax(self) -> Floats:
        """Log-probabilities over the label set; ValueError where there are no scores."""
        if self.log_probs is None:
            raise ValueError("no log-probabilities")
        return log_softmax(self.log_probs, self.residual_mass)

    @cached_property
    def confusion(self) -> tuple[Callable[[Floats], Confusion], int | Ints]:
        """What counts the confusion matrix of weighted cells, and the rows in each cell."""
        size = len(self.labels)
        codes = self.gold_codes * (size + 1) + self.predicted_codes
        codes, rows = cells(codes, self.items)
        return counter(codes // (size + 1), codes % (size + 1), size), rows


@dataclass(frozen=True)
class Statistic:
    """A metric as a vectorised function of row weights.

    Attributes:
        function: How often each row counts, shape (resamples, rows), to the metric of each
            resample, shape (resamples,); NaN where a resample does not define it.
        rows: The rows that each weight stands for, where rows were put into cells
            (:func:`~multitask.metrics.intervals.cells`); None: a weight per row.
    """

    function: Callable[[Floats], Floats]
    rows: Ints | None = None


@dataclass(frozen=True)
class Metric:
    """A metric, callable on predictions; see :func:`metric`.

    Attributes:
        name: Its key in results.json and specs.
        function: What computes it.
        title: Its name in tables.
        higher_is_better: Or lower.
        unit: What it is measured in.
        kinds: The kinds of task that have it by default.
        needs: Fields of :class:`Predictions` without which it cannot be computed.
        of: What the function takes.
    """

    name: str
    function: Callable[..., Any]
    title: str
    higher_is_better: bool = True
    unit: Unit = "share"
    kinds: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    of: Literal["rows", "confusion"] = "rows"

    def __call__(self, predictions: Predictions) -> Interval | None:
        """Compute it; None where these predictions do not define it."""
        return compute(predictions, [self]).get(self.name)

    @property
    def is_own(self) -> bool:
        """Whether it is a user's own."""
        return not self.function.__module__.startswith("multitask.")

    @property
    def is_share(self) -> bool:
        """Whether it is shown in percent."""
        return self.unit == "share"


METRICS: dict[str, Metric] = {}
"""Every metric by its key in results.json, in the order of tables."""


def metric(
    *,
    name: str,
    title: str,
    higher_is_better: bool = True,
    unit: Unit = "share",
    kinds: Sequence[str] = (),
    needs: Sequence[str] = (),
    of: Literal["rows", "confusion"] = "rows",
) -> Callable[[Callable[..., Any]], Metric]:
    """Register a function as a metric; the module says what it takes and returns.

    Args:
        name: Its key in results.json and specs.
        title: Its name in tables.
        higher_is_better: Or lower.
        unit: ``share`` of rows, ``number`` or ``nats``.
        kinds: Names of the kinds of task that have it by default; a task of another kind that asks
            for it is refused, unless there are none.
        needs: Fields of :class:`Predictions` that must not be None, such as ``log_probs``.
        of: What the function takes: ``rows`` (:class:`Predictions`) or ``confusion``
            (:class:`~multitask.metrics.intervals.Confusion`).

    Raises:
        ValueError: There is a metric of that name, or no such field.
    """
    unknown = set(needs) - {field.name for field in fields(Predictions)}
    if unknown:
        raise ValueError(f"metric {name!r} needs unknown fields: {', '.join(sorted(unknown))}")

    def register(function: Callable[..., Any]) -> Metric:
        known = METRICS.get(name)
        place = (function.__module__, function.__qualname__)
        # The same function, imported anew, takes its own place.
        if known and place != (known.function.__module__, known.function.__qualname__):
            raise ValueError(f"there is a metric {name!r} already")
        METRICS[name] = Metric(
            name, function, title, higher_is_better, unit, tuple(kinds), tuple(needs), of
        )
        return METRICS[name]

    return register


def metrics_of(kind: str) -> list[Metric]:
    """The metrics that a kind of task has by default, its headline first."""
    return [known for known in METRICS.values() if kind in known.kinds]


def chosen(names: Sequence[str], kind: str, has: Collection[str], where: str) -> list[Metric]:
    """The metrics that a task chooses; those of its kind where it chooses none.

    Args:
        names: Names of metrics, or ``module:name`` of a user's own: a module on Python's path, or
            a file ``path/to/module.py:name``.
        kind: The task's kind.
        has: Fields of :class:`Predictions` that such tasks can have.
        where: The key, for messages.

    Raises:
        InputError: A metric is unknown, chosen twice, of another kind, needs what the task does not
            have, or its module cannot be imported.
    """
    found: dict[str, Metric] = {}
    for name in names:
        one = METRICS.get(name) or (_imported(name, where) if ":" in name else None)
        fitting = [m.name for m in METRICS.values() if _misfit(m, kind, has) is None]
        if one is None:
            raise InputError(
                f"unknown metric {name!r}", where=where, fix=did_you_mean(name, fitting)
            )
        misfit = _misfit(one, kind, has)
        if misfit is not None:
            raise InputError(
                f"the metric {name!r} {misfit}", where=where, fix=did_you_mean(name, fitting)
            )
        if one.name in found:
            raise InputError(
                f"the metric {one.name!r} is there twice", where=where, fix="remove one"
            )
        found[one.name] = one
    return list(found.values()) or metrics_of(kind)


def _misfit(one: Metric, kind: str, has: Collection[str]) -> str | None:
    """Why a task of a kind cannot have a metric; None where it can."""
    if one.kinds and kind not in one.kinds:
        return f"is of {' and '.join(one.kinds)}, not of {kind}"
    lacking = [need for need in one.needs if need not in {*has, *_ALWAYS}]
    if lacking:
        what = "probabilities" if "log_probs" in lacking else " and ".join(lacking)
        return f"needs {what}, which a task of the kind {kind} does not have"
    return None


def _imported(name: str, where: str) -> Metric:
    """A user's own metric, by ``module:name``."""
    place, _, attribute = name.rpartition(":")
    try:
        module = _module(place)
    except Exception as error:  # noqa: BLE001 (the user's module may raise anything)
        what = str(error) or type(error).__name__
        raise InputError(
            f"the metric {name!r} cannot be imported: {what}",
            where=where,
            fix="put its module beside the spec or on Python's path, and correct what it says",
        ) from None
    found = getattr(module, attribute, None)
    if isinstance(found, Metric):
        return found
    there = [key for key, value in vars(module).items() if isinstance(value, Metric)]
    raise InputError(
        f"{place!r} has no metric {attribute!r}"
        if found is None
        else f"{attribute!r} of {place!r} is no metric",
        where=where,
        fix=did_you_mean(attribute, there)
        if there
        else "put `@metric(name=..., title=...)` of multitask.metrics above a function",
    )


def _module(place: str) -> ModuleType:
    """Import a module by its name, or a file; what lies beside a file can be imported by it."""
    path = Path(place)
    if path.suffix != ".py":
        return import_module(place)
    name = f"own_metrics_of_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"there is no file {place}")
    module = sys.modules[name] = module_from_spec(spec)
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def keep_module(name: str, root: Path) -> str:
    """Copy the file of an own metric into a run, so that it goes wherever the run goes.

    Returns:
        Its name there, for :func:`kept_module`; of other metrics the name itself.
    """
    place, _, attribute = name.rpartition(":")
    if not place.endswith(".py"):
        return name
    content = Path(place).read_bytes()
    # The file's own name stays its module's; another file of that name lies elsewhere.
    kept = Path("metrics") / hashlib.sha256(content).hexdigest()[:12] / Path(place).name
    (root / kept).parent.mkdir(parents=True, exist_ok=True)
    (root / kept).write_bytes(content)
    return f"{kept.as_posix()}:{attribute}"


def kept_module(name: str, root: Path) -> str:
    """The name by which :func:`chosen` finds what :func:`keep_module` put into a run."""
    place, _, attribute = name.rpartition(":")
    return f"{root / place}:{attribute}" if place.endswith(".py") else name


def own_record(metrics: Iterable[Metric]) -> dict[str, dict[str, Any]]:
    """What results.json says of metrics that do not ship with multitask."""
    return {
        one.name: {
            "title": one.title,
            "higher_is_better": one.higher_is_better,
            "unit": one.unit,
        }
        for one in metrics
        if one.is_own
    }


def adopt(results: Mapping[str, Any]) -> None:
    """Take what results.json says of own metrics, so that their titles are known here."""
    for task in results["tasks"].values():
        for name, about in task.get("own_metrics", {}).items():
            METRICS.setdefault(name, Metric(name, _not_here, **about))


def _not_here(_: Predictions) -> None:
    """Of a metric that only its results tell of."""


def compute(predictions: Predictions, metrics: Iterable[Metric]) -> dict[str, Interval]:
    """Metrics with their intervals, by name, in the order given.

    Those that need what the predictions lack, or are not defined on these rows, are left out. The
    resampling is seeded: the same predictions give the same intervals.

    Raises:
        ValueError: Predictions that a metric refuses, such as a gold answer that is no label.
        MultitaskError: A user's own metric raised an error.
    """
    chosen = [m for m in metrics if all(getattr(predictions, need) is not None for need in m.needs)]
    found: dict[str, Interval] = {}
    statistics: dict[str, Statistic] = {}
    columns: dict[str, Floats] = {}
    for one in chosen:
        if one.of == "confusion":
            continue
        result = _called(one, predictions)
        if isinstance(result, Statistic):
            statistics[one.name] = result
        elif isinstance(result, Interval):
            found[one.name] = result
        elif isinstance(result, np.ndarray) and result.ndim:
            if len(result) != len(predictions):
                raise ValueError(
                    f"metric {one.name!r} gives {len(result)} numbers for {len(predictions)} rows"
                )
            if result.dtype == bool:
                found[one.name] = share(result, predictions.items)
            else:
                columns[one.name] = result.astype(np.float64)
        elif result is not None:
            statistics[one.name] = _recomputed(one, predictions)
    if columns:
        found |= bootstrap(means(columns), len(predictions), predictions.items)
    found |= _of_statistics(statistics, predictions)
    found |= _of_confusion([m for m in chosen if m.of == "confusion"], predictions)
    defined = {name for name, interval in found.items() if interval.value == interval.value}
    return {one.name: found[one.name] for one in chosen if one.name in defined}


def _called(one: Metric, predictions: Predictions) -> Any:
    if not one.is_own:
        return one.function(predictions)
    try:
        # Of no rows, numpy's mean is NaN, which says "not defined" here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return one.function(predictions)
    except Exception as error:
        raise MultitaskError(
            f"the metric {one.name!r} failed: {type(error).__name__}: {error}",
            where=f"{one.function.__module__}.{one.function.__qualname__}",
            fix="correct it and evaluate again: what is scored is kept",
        ) from error


def _of_statistics(
    statistics: Mapping[str, Statistic], predictions: Predictions
) -> dict[str, Interval]:
    """Statistics of the same cells share their resamples."""
    groups: dict[int, list[str]] = {}
    for name, one in statistics.items():
        groups.setdefault(id(one.rows), []).append(name)
    found: dict[str, Interval] = {}
    for names in groups.values():
        rows = statistics[names[0]].rows
        functions = {name: statistics[name].function for name in names}
        found |= bootstrap(
            partial(_each, functions),
            len(predictions) if rows is None else rows,
            predictions.items if rows is None else None,
        )
    return found


def _each(
    functions: Mapping[str, Callable[[Floats], Floats]], weights: Floats
) -> dict[str, Floats]:
    return {name: function(weights) for name, function in functions.items()}


def _recomputed(one: Metric, predictions: Predictions) -> Statistic:
    """A metric that gives a number: computed anew on the rows of each resample."""

    def function(weights: Floats) -> Floats:
        values = []
        for row in weights.astype(np.int64):
            value = _called(one, predictions.take(np.repeat(np.arange(len(row)), row)))
            values.append(np.nan if value is None else float(value))
        return np.array(values)

    return Statistic(function)


def _of_confusion(metrics: Sequence[Metric], predictions: Predictions) -> dict[str, Interval]:
    if not metrics:
        return {}
    confusion, rows = predictions.confusion

    def statistics(weights: Floats) -> dict[str, Floats]:
        counts = confusion(weights)
        return {one.name: one.function(counts) for one in metrics}

    items = predictions.items if isinstance(rows, int) else None
    return bootstrap(statistics, rows, items, width=len(predictions.labels))
