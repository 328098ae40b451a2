"""Abstention: from which confidence on a model may answer, and what that leaves to people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from multitask.metrics.estimate import (
    Clusters,
    Estimate,
    Floats,
    Ints,
    cluster_codes,
    wilson,
    wilson_ends,
)

Rule = Literal["lower_bound", "point_estimate"]

TARGET_PRECISION = 0.95


@dataclass(frozen=True)
class Threshold:
    """From which confidence on the model answers; below it a person does.

    Attributes:
        threshold: Rows with at least this confidence are answered; None where no threshold reaches
            the target, so that everything is handed over.
        target: The wanted precision.
        rule: What had to reach the target: the lower end of the precision's interval, or the
            precision itself.
        rows: How many rows it was chosen on.
        precision: Share of the answered rows that is right; None where none is answered.
        coverage: Share of rows that is answered.
    """

    threshold: float | None
    target: float
    rule: Rule
    rows: int
    precision: Estimate | None
    coverage: Estimate


def choose_threshold(
    confidence: npt.ArrayLike,
    correct: Sequence[bool] | npt.NDArray[np.bool_],
    *,
    target: float = TARGET_PRECISION,
    rule: Rule = "lower_bound",
    clusters: Clusters | None = None,
) -> Threshold:
    """The threshold that answers most rows among those that reach a precision.

    The threshold is chosen among many, on the rows that also measure it. By ``point_estimate``
    the winner owes its precision partly to luck: more than half of the thresholds chosen so miss
    the target on new rows. ``lower_bound`` asks the lower end of the 95 % Wilson interval to reach
    the target: no more than about one choice in twenty misses it, at the price of fewer rows
    answered, and of more rows needed: 73 answered without an error for 0.95. (Geifman and
    El-Yaniv, 2017, "Selective classification for deep neural networks", bound the risk of a chosen
    threshold for the same reason.) That none reaches the target is a result and not an error.

    Where several rows come from one item, each item counts as one row: as if its rows were right or
    wrong together, the worst case.

    Args:
        confidence: Calibrated probability of each validation row's prediction, 0 to 1.
        correct: Whether the prediction is right.
        target: The wanted precision, above 0 and at most 1.
        rule: What has to reach it.
        clusters: The item of every row, where items have several.

    Raises:
        ValueError: There are no rows, the sequences differ in length, a confidence is NaN, or the
            target is out of range.
    """
    if not 0 < target <= 1:
        raise ValueError(f"a target precision of {target}, not above 0 and at most 1")
    sure, right, items = _ordered(confidence, correct, clusters)
    last = _last_of_equals(sure)
    precision = np.cumsum(right)[last] / (last + 1)
    if rule == "lower_bound":
        reaching = wilson_ends(precision, _items_so_far(items)[last])[0] >= target
    else:
        reaching = precision >= target
    chosen = float(sure[last[reaching][-1]]) if reaching.any() else None
    answered, coverage = at_threshold(chosen, confidence, correct, clusters=clusters)
    return Threshold(chosen, target, rule, len(sure), answered, coverage)


def at_threshold(
    threshold: float | None,
    confidence: npt.ArrayLike,
    correct: Sequence[bool] | npt.NDArray[np.bool_],
    *,
    clusters: Clusters | None = None,
) -> tuple[Estimate | None, Estimate]:
    """Precision and coverage of a threshold, such as one from validation on test rows.

    Both have Wilson intervals; with clusters, each item counts as one row.

    Returns:
        The precision, None where no row is answered, and the coverage.

    Raises:
        ValueError: As :func:`choose_threshold`.
    """
    sure, right, items = _ordered(confidence, correct, clusters)
    answered = np.zeros(len(sure), bool) if threshold is None else sure >= threshold
    groups = len(np.unique(items))
    coverage = wilson(float(answered.mean()) * groups, groups)
    if not answered.any():
        return None, coverage
    groups = len(np.unique(items[answered]))
    return wilson(float(right[answered].mean()) * groups, groups), coverage


def _ordered(
    confidence: npt.ArrayLike,
    correct: Sequence[bool] | npt.NDArray[np.bool_],
    clusters: Clusters | None,
) -> tuple[Floats, npt.NDArray[np.bool_], Ints]:
    """Confidence, whether right, and item of every row, the most confident first."""
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    if sure.shape != right.shape or sure.ndim != 1:
        raise ValueError(f"{sure.shape} confidences but {right.shape} answers")
    if not len(sure):
        raise ValueError("no rows")
    if np.isnan(sure).any():
        raise ValueError(f"row {int(np.argmax(np.isnan(sure)))} has a confidence of NaN")
    items = np.arange(len(sure)) if clusters is None else cluster_codes(clusters, len(sure))
    order = np.argsort(-sure, kind="stable")
    return sure[order], right[order], items[order]


def _last_of_equals(ordered: Floats) -> Ints:
    return np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True]).astype(np.int64)


def _items_so_far(items: Ints) -> Floats:
    new = np.zeros(len(items))
    new[np.unique(items, return_index=True)[1]] = 1
    return np.cumsum(new)
