"""Stratified, seeded splits that keep duplicates together and ignore the order of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from multitask.data.normal_form import Fingerprints, draw

Mask = npt.NDArray[np.bool_]


def stratified_split(
    labels: Sequence[str], groups: Fingerprints, fraction: float, *, seed: int
) -> Mask:
    """Choose rows for the first of two parts that have the same label proportions.

    Rows of one group (duplicates and near-duplicates) stay together. Without groups of several
    rows the first part has ``round(fraction * n)`` rows, and each label's share of it is within a
    row of ``fraction``. A label with at least two rows has at least one in the first part. Which
    rows are drawn follows from their fingerprints and the seed, not from their order.

    Args:
        labels: The rows' labels; a group counts for the first of its labels by name.
        groups: The rows' group fingerprints.
        fraction: Share of the first part, between 0 and 1.
        seed: Another seed draws other rows.

    Returns:
        True for the rows of the first part.
    """
    names = sorted(set(labels))
    code_of = {name: code for code, name in enumerate(names)}
    codes = np.fromiter(map(code_of.__getitem__, labels), dtype=np.int64, count=len(labels))
    keys, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    label_of_group = np.full(len(keys), len(names))
    np.minimum.at(label_of_group, group_of_row, codes)

    order = np.lexsort((draw(keys, seed), label_of_group))
    starts = np.searchsorted(label_of_group[order], np.arange(len(names) + 1))
    chosen = np.zeros(len(keys), dtype=bool)
    seen = taken = 0
    for label in range(len(names)):
        members = order[starts[label] : starts[label + 1]]
        if not len(members):
            continue
        reached = np.cumsum(sizes[members])
        seen += int(reached[-1])
        # Aiming at the running total, not at each label's, keeps the whole at the wanted size.
        count = int(np.argmin(np.abs(np.concatenate(([0], reached)) - (fraction * seen - taken))))
        if reached[-1] > 1:
            count = max(count, 1)
        chosen[members[:count]] = True
        taken += int(reached[count - 1]) if count else 0
    mask: Mask = chosen[group_of_row]
    return mask
