"""Which validation rows are evaluated while training: few, and the same each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Fewer say too little of a task, whatever they would save.
_FEWEST = 16
# A training step costs at least the forward pass and a backward pass of twice the work.
_FORWARD_SHARE = 1 / 3


def row_budget(
    most: int, *, share: float, trained_rows: float, evaluations: int, tasks: int
) -> int:
    """Rows of a task that an evaluation may have.

    Args:
        most: The upper bound.
        share: Most of the training's work that all evaluations together may add.
        trained_rows: Rows the whole training sees, repeats counted.
        evaluations: How many evaluations there are.
        tasks: How many tasks there are.

    Returns:
        A number of rows; at least 16 where ``most`` is, however short the training.
    """
    rows = share * trained_rows / _FORWARD_SHARE / max(1, evaluations) / max(1, tasks)
    return min(most, max(_FEWEST, math.floor(rows)))


def stratified(labels: Sequence[str], count: int, *, seed: int) -> NDArray[np.int64]:
    """Choose rows so that each label has its share, rounded up or down.

    Args:
        labels: Each row's label.
        count: How many rows to choose; all are taken where there are no more.
        seed: Seeds the choice.

    Returns:
        The chosen rows' numbers, rising.
    """
    import numpy as np

    if count >= len(labels):
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    order = generator.permutation(len(labels))
    exact = np.bincount(codes, minlength=len(names)) * (count / len(labels))
    quota = np.floor(exact).astype(np.int64)
    # Largest remainders get one more; ties are drawn.
    rank = np.lexsort((generator.random(len(names)), -(exact - quota)))
    quota[rank[: count - int(quota.sum())]] += 1
    chosen = [order[codes[order] == code][: quota[code]] for code in range(len(names))]
    return np.sort(np.concatenate(chosen))
