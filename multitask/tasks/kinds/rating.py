"""Rating: a text, and its point on an ordered scale, such as one to five stars."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.tasks.kinds.base import RowReader
from multitask.tasks.kinds.classification import Classification, ClassReader

if TYPE_CHECKING:
    from multitask.evaluation.results import ByPurpose
    from multitask.metrics.intervals import Floats
    from multitask.metrics.registry import Predictions, Statistic
    from multitask.task_spec import TaskSpec
    from multitask.tasks.task import Task

_MOST_POINTS = 100


class Rating(Classification):
    """A text has one point of an ordered scale; labels are the points, the lowest first."""

    name = "rating"
    columns = (("text", "rating"),)
    keys = frozenset()
    also = ("accuracy", "macro_f1", "log_loss", "brier", "ece")

    def declared_labels(self, spec: TaskSpec) -> list[str] | None:
        """See :meth:`Kind.declared_labels`."""
        scale: list[str] | None = spec.own("scale")
        if scale is None:
            raise ValueError("a rating needs its `scale`, such as 1-5 or [low, middle, high]")
        return scale

    def reader(
        self, spec: TaskSpec, labels: Sequence[str] | None, paths: Sequence[Path]
    ) -> RowReader:
        """See :meth:`Kind.reader`."""
        del spec, paths
        return RatingReader(labels)

    def add_metrics(self) -> None:
        """See :meth:`Kind.add_metrics`."""
        from multitask.metrics.registry import metric

        super().add_metrics()
        own = partial(metric, unit="number", kinds=(self.name,))
        own(name="mae", title="Mean absolute error", higher_is_better=False)(mae)
        own(
            name="expected_mae",
            title="Mean absolute error of the expected rating",
            higher_is_better=False,
            needs=("log_probs",),
        )(expected_mae)
        own(name="quadratic_kappa", title="Quadratic-weighted kappa")(quadratic_kappa)

    def details(self, task: Task, found: ByPurpose, rows: Predictions) -> dict[str, Any]:
        """Besides those of classes, the mean rating: right, answered, and expected."""
        points = values(task.labels)
        means = {
            "gold": float(points[rows.gold_codes].mean()),
            "predicted": float(points[rows.predicted_codes].mean()),
        }
        if rows.log_probs is not None:
            means["expected"] = float(expected(rows).mean())
        return {**super().details(task, found, rows), "of_kind": {"mean_rating": means}}


def scale(given: object) -> list[str]:
    """The points of a scale that is a list, or two numbers as in ``1-5``.

    Raises:
        ValueError: It is neither, or has fewer than two points, or one twice.
    """
    span = re.fullmatch(r"\s*(-?\d+)\s*(?:-|\u2013|to)\s*(-?\d+)\s*", str(given))
    if span:
        first, last = int(span[1]), int(span[2])
        given = list(range(first, min(last, first + _MOST_POINTS) + 1))
    points = [str(point).strip() for point in given] if isinstance(given, list) else []
    if not 2 <= len(set(points)) == len(points) <= _MOST_POINTS or "" in points:
        raise ValueError(
            "`scale` is no list of 2 to 100 different points, the lowest first, such as 1-5"
        )
    numbers = [number for point in points if (number := _number(point)) is not None]
    if len(numbers) == len(points) and any(a >= b for a, b in pairwise(numbers)):
        raise ValueError(f"`scale` is not in order, the lowest first: {', '.join(points)}")
    return points


Rating.own_keys = {"scale": scale}


class RatingReader(ClassReader):
    """Makes rows of a rating, whose numbers may be written in any way: 4, 4.0, " 4"."""

    def clean(self, label: str) -> str:
        """See :meth:`ClassReader.clean`."""
        label = super().clean(label)
        if self.known and label not in self.known:
            return next((p for p in self.known if _number(p) == _number(label) is not None), label)
        return label

    def __call__(self, row_id: str, values: tuple[Any, ...]) -> Any:
        """See :data:`RowReader`."""
        text, rating = values
        # A column with a gap in it is one of floats, and not-a-number is the gap.
        if isinstance(rating, float) and rating == rating:
            rating = str(rating)
        return super().__call__(row_id, (text, rating))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def values(labels: Sequence[str]) -> Floats:
    """What the points of a scale are worth, and not-a-number for no point.

    Their numbers where all are numbers, else their places from 1.
    """
    import numpy as np

    numbers = [_number(label) for label in labels]
    worth = range(1, len(labels) + 1) if None in numbers else numbers
    return np.array([*worth, np.nan], dtype=np.float64)


def expected(rows: Predictions) -> Floats:
    """The expected rating of each row: the points of the scale, weighed by their probability."""
    import numpy as np

    found: Floats = np.exp(rows.log_softmax) @ values(rows.labels)[:-1]
    return found


def mae(rows: Predictions) -> Floats:
    """Mean distance of the rating answered from the right one, in points of the scale.

    An answer that is no point of it is as far off as can be.
    """
    import numpy as np

    points = values(rows.labels)
    gold = points[rows.gold_codes]
    furthest = np.maximum(gold - np.nanmin(points), np.nanmax(points) - gold)
    distance = np.abs(points[rows.predicted_codes] - gold)
    return np.where(np.isnan(distance), furthest, distance)


def expected_mae(rows: Predictions) -> Floats:
    """Mean distance of the expected rating from the right one, in points of the scale."""
    import numpy as np

    found: Floats = np.abs(expected(rows) - values(rows.labels)[rows.gold_codes])
    return found


def quadratic_kappa(rows: Predictions) -> Statistic:
    """Agreement beyond chance, where an answer counts as wrong as its places squared.

    J. Cohen, 1968, "Weighted kappa"; as scikit-learn's ``cohen_kappa_score`` with
    ``weights="quadratic"`` over the whole scale. Answers that are no point of it are left out; 0
    where all are at one point.
    """
    import numpy as np

    from multitask.metrics.intervals import cells, ratio
    from multitask.metrics.registry import Statistic

    size = len(rows.labels)
    codes, counts = cells(rows.gold_codes * (size + 1) + rows.predicted_codes, rows.items)
    gold, predicted = codes // (size + 1), codes % (size + 1)
    answered, places = predicted < size, np.arange(size)
    distance = (gold - predicted) ** 2.0 * answered
    of_gold = ((gold[:, None] == places) & answered[:, None]).astype(float)
    of_predicted = (predicted[:, None] == places).astype(float)
    wrong = (places[:, None] - places) ** 2.0

    def function(weights: Floats) -> Floats:
        right, answers = weights @ of_gold, weights @ of_predicted
        observed = weights @ distance * answers.sum(axis=1)
        by_chance = (right @ wrong * answers).sum(axis=1)
        return 1 - ratio(observed, by_chance, otherwise=1.0)

    return Statistic(function, None if isinstance(counts, int) else counts)
