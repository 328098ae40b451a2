"""Accuracy and macro-F1, each with a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

_Z95 = 1.959963984540054
_RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % confidence interval.

    Attributes:
        value: The point estimate on all rows.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """As written to results.json."""
        return asdict(self)


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> Estimate:
    """Share of rows whose prediction is the gold answer, with the Wilson score interval.

    Wilson's interval (E. B. Wilson, 1927, "Probable inference, the law of succession, and
    statistical inference") holds its level for few rows and for shares near 0 and 1.

    Raises:
        ValueError: There are no rows, or the two differ in length.
    """
    n = _require_rows(gold, predicted)
    share = sum(g == p for g, p in zip(gold, predicted, strict=True)) / n
    centre = (share + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2))
    # The ends are exact at 0 and 1, where rounding would leave a hair outside.
    return Estimate(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def macro_f1(
    gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str], *, seed: int = 0
) -> Estimate:
    """Unweighted mean of the F1 of every label that occurs in gold or predictions.

    As scikit-learn's ``f1_score(average="macro")`` over the labels present: a label that is
    neither gold nor predicted says nothing and is left out. The interval is a percentile
    bootstrap over rows (Efron, 1979), with the estimate on all rows as the value.

    Args:
        gold: Gold answers.
        predicted: Predictions, in the same order.
        labels: The label space; gives the classes their order only.
        seed: Seeds the bootstrap.

    Raises:
        ValueError: There are no rows, the two differ in length, or an answer is no label.
    """
    n = _require_rows(gold, predicted)
    index = {label: i for i, label in enumerate(labels)}
    unknown = (set(gold) | set(predicted)) - index.keys()
    if unknown:
        raise ValueError(f"not in the label space: {sorted(unknown)[:3]}")
    g = np.array([index[x] for x in gold])
    p = np.array([index[x] for x in predicted])
    rng = np.random.default_rng(seed)
    draws = [
        _macro_f1(g[rows], p[rows], len(labels)) for rows in rng.integers(0, n, (_RESAMPLES, n))
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(_macro_f1(g, p, len(labels)), float(low), float(high))


def _macro_f1(gold: npt.NDArray[np.int_], predicted: npt.NDArray[np.int_], classes: int) -> float:
    hits = np.bincount(gold[gold == predicted], minlength=classes)
    either = np.bincount(gold, minlength=classes) + np.bincount(predicted, minlength=classes)
    present = either > 0
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is gold count + predicted count.
    return float(np.mean(2 * hits[present] / either[present]))


def _require_rows(gold: Sequence[str], predicted: Sequence[str]) -> int:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold answers but {len(predicted)} predictions")
    if not gold:
        raise ValueError("no rows")
    return len(gold)
