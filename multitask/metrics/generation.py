"""Exact match and token F1 of generated texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from multitask.data.normal_form import normalised, without_punctuation
from multitask.metrics.classification import accuracy
from multitask.metrics.estimate import Estimate

_RESAMPLES = 1000


def exact_match(gold: Sequence[str], predicted: Sequence[str]) -> Estimate:
    """Share of texts that equal the reference, ignoring case and white space (Wilson interval)."""
    return accuracy([normalised(text) for text in gold], [normalised(text) for text in predicted])


def token_f1(gold: Sequence[str], predicted: Sequence[str], *, seed: int = 0) -> Estimate:
    """Mean F1 of the words of each text against its reference.

    As in SQuAD (Rajpurkar et al., 2016), without dropping articles, so that it holds for any
    language with spaces. The interval is a percentile bootstrap over rows.

    Raises:
        ValueError: There are no rows, or the two differ in length.
    """
    if len(gold) != len(predicted) or not gold:
        raise ValueError(f"{len(gold)} references for {len(predicted)} texts")
    values = np.array([_f1(g, p) for g, p in zip(gold, predicted, strict=True)])
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def _f1(gold: str, predicted: str) -> float:
    one, two = without_punctuation(gold).split(), without_punctuation(predicted).split()
    if not one or not two:
        return float(one == two)
    return 2 * (Counter(one) & Counter(two)).total() / (len(one) + len(two))
