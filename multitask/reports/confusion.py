"""The confusion matrix of a task, ordered so that labels taken for each other stand together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_LABELS = 120
"""Labels that a matrix shows; of more, those with the most confusions."""


@dataclass(frozen=True)
class Cell:
    """Rows of one right label that were given one label.

    Attributes:
        row: Place of the right label.
        column: Place of the predicted one.
        count: How many rows.
        share: Of all rows of the right label.
    """

    row: int
    column: int
    count: int
    share: float

    @property
    def same(self) -> bool:
        """Whether the answer is right."""
        return self.row == self.column


@dataclass(frozen=True)
class Confusion:
    """A matrix without its empty cells.

    Attributes:
        labels: In the order of rows and columns.
        cells: Every cell with rows.
        left_out: Labels that are not shown.
    """

    labels: list[str]
    cells: list[Cell]
    left_out: int


def confusion(
    gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]
) -> Confusion | None:
    """Count, choose and order; None without rows. Answers that are no label are left out."""
    codes = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for right, answer in zip(gold, predicted, strict=True):
        if right in codes and answer in codes:
            counts[codes[right], codes[answer]] += 1
    found = np.flatnonzero(counts.sum(0) + counts.sum(1))
    if not len(found):
        return None
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    chosen = found[np.argsort(-wrong[found], kind="stable")][:MOST_LABELS]
    chosen = chosen[_order(counts[np.ix_(chosen, chosen)])]
    support = counts.sum(1)
    part = counts[np.ix_(chosen, chosen)]
    cells = [
        Cell(int(i), int(j), int(part[i, j]), float(part[i, j] / support[chosen[i]]))
        for i, j in zip(*np.nonzero(part), strict=True)
    ]
    return Confusion([labels[i] for i in chosen], cells, len(found) - len(chosen))


def _order(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Order labels by average-linkage clustering of how often they are confused.

    The leaves are ordered as by Bar-Joseph et al. (2001), "Fast optimal leaf ordering for
    hierarchical clustering".
    """
    size = len(counts)
    mutual = (counts + counts.T).astype(np.float64)
    np.fill_diagonal(mutual, 0)
    if size < 3 or not mutual.any():
        return np.arange(size)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    support = np.maximum(1, counts.sum(1))
    distance = 1 / (1 + 10 * mutual / np.sqrt(np.outer(support, support)))
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    order: npt.NDArray[np.intp] = leaves_list(tree)
    return order
