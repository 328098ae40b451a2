"""Seeded draws of rows: the split, the mixture, and the order of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from multitask.data.fingerprint import Fingerprints, draw
from multitask.errors import InputError, did_you_mean
from multitask.task_spec import MixtureSpec

Indices = npt.NDArray[np.int64]


def mixture_sizes(rows: Mapping[str, int], mixture: MixtureSpec) -> dict[str, int]:
    """Decide how many rows of each task one pass over the mixture has.

    ``temperature`` follows Raffel et al., 2020 ("T5", section 3.5.2): shares proportional to
    rows^(1/T).

    Args:
        rows: Distinct training rows of each task.
        mixture: The spec's wishes.

    Returns:
        Rows per task, at least one each.

    Raises:
        InputError: A wish names a task that is not there, or a task has no weight.
    """
    _check_names(rows, mixture)
    capped = {task: min(n, mixture.caps.get(task, n)) for task, n in rows.items()}
    fixed = {task: max(1, round(capped[task] * epochs)) for task, epochs in mixture.epochs.items()}
    free = {task: n for task, n in capped.items() if task not in fixed}
    total = (mixture.size or sum(capped.values())) - sum(fixed.values())
    if mixture.size is None:
        total = sum(free.values())
    elif total < 0 or (total and not free):
        raise InputError(
            f"`epochs` gives {', '.join(fixed)} {sum(fixed.values()):,} rows, and `size` wants "
            f"{mixture.size:,} in all",
            where="keys 'mixture.size' and 'mixture.epochs'",
            fix="leave one of them out",
        )
    elif free and total < len(free):
        raise InputError(
            f"a mixture of {mixture.size} rows leaves none for {', '.join(free)}",
            where="key 'mixture.size'",
            fix="raise it",
        )
    weights = _weights(free, mixture)
    return {task: fixed.get(task) or max(1, round(total * weights[task])) for task in rows}


def _weights(rows: Mapping[str, int], mixture: MixtureSpec) -> dict[str, float]:
    if mixture.strategy == "equal":
        raw = dict.fromkeys(rows, 1.0)
    elif mixture.strategy == "temperature":
        raw = {task: n ** (1 / mixture.temperature) for task, n in rows.items()}
    elif mixture.strategy == "weights":
        missing = [task for task in rows if task not in mixture.weights]
        if missing:
            raise InputError(
                f"task {missing[0]!r} has no weight",
                where="key 'mixture.weights'",
                fix="give every task one",
            )
        raw = {task: mixture.weights[task] for task in rows}
    else:
        raw = {task: float(n) for task, n in rows.items()}
    whole = sum(raw.values())
    return {task: value / whole for task, value in raw.items()}


def _check_names(rows: Mapping[str, int], mixture: MixtureSpec) -> None:
    for key in ("weights", "caps", "epochs"):
        for task in getattr(mixture, key):
            if task not in rows:
                raise InputError(
                    f"the run has no task {task!r}",
                    where=f"key 'mixture.{key}'",
                    fix=did_you_mean(task, rows),
                )


def choose(keys: Fingerprints, distinct: int, size: int, *, seed: int) -> tuple[Indices, Indices]:
    """Draw rows of a task: whole passes, then a part of a pass without repetition.

    Args:
        keys: Fingerprints of the task's rows; the draw follows from them, not from the order.
        distinct: How many different rows may be used (a cap).
        size: How many rows are wanted.
        seed: Seeds the draw.

    Returns:
        Positions of the rows, and for each whether it is its first (0), second (1), ... use.
    """
    order = np.argsort(draw(keys, seed), kind="stable")[:distinct]
    passes, rest = divmod(size, distinct)
    positions = np.concatenate([np.tile(order, passes), order[:rest]])
    uses = np.concatenate(
        [np.repeat(np.arange(passes), distinct), np.full(rest, passes, dtype=np.int64)]
    )
    return positions.astype(np.int64), uses.astype(np.int64)


def shuffled(sizes: Sequence[int], *, seed: int) -> Indices:
    """An order of all rows of several tasks, given one after the other.

    The first places have one row of each task. ``datasets`` infers a JSON file's columns from its
    first 10 MB and dies on a column that first appears later, as it would in a mixture of one
    large and one small task.
    """
    order = np.random.default_rng(seed).permutation(sum(sizes))
    task_of = np.repeat(np.arange(len(sizes)), sizes)[order]
    _, first = np.unique(task_of, return_index=True)
    lead = np.sort(first)
    rest = np.delete(order, lead)
    mixed: Indices = np.concatenate([order[lead], rest]).astype(np.int64)
    return mixed


Mask = npt.NDArray[np.bool_]


def stratified_split(
    codes: npt.NDArray[np.integer[Any]], groups: Fingerprints, fraction: float, *, seed: int
) -> Mask:
    """Choose rows for the first of two parts that have the same label proportions.

    Rows of one group (duplicates and near-duplicates) stay together. Without groups of several
    rows the first part has ``round(fraction * n)`` rows, and each label's share of it is within a
    row of ``fraction``. A label with at least two rows has at least one in the first part. Which
    rows are drawn follows from their fingerprints and the seed, not from their order.

    Args:
        codes: The rows' labels, from 0 in the order of their names; a group counts for the
            first of its labels.
        groups: The rows' group fingerprints.
        fraction: Share of the first part, between 0 and 1.
        seed: Another seed draws other rows.

    Returns:
        True for the rows of the first part.
    """
    count = int(codes.max(initial=-1)) + 1
    by_group = np.argsort(groups)
    first = np.flatnonzero(np.diff(groups[by_group], prepend=~groups[by_group[:1]]))
    sizes = np.diff(first, append=len(groups))
    keys = groups[by_group[first]]
    label_of_group = np.minimum.reduceat(codes[by_group], first) if len(first) else codes
    # Keys are different, and so are draws; NumPy sorts small numbers by their digits.
    order = np.argsort(draw(keys, seed))
    small = label_of_group.astype(np.uint16 if count < 2**16 else np.int64)
    order = order[np.argsort(small[order], kind="stable")]
    starts = np.searchsorted(label_of_group[order], np.arange(count + 1))
    chosen = np.zeros(len(keys), dtype=bool)
    seen = taken = 0
    for label in range(count):
        members = order[starts[label] : starts[label + 1]]
        if not len(members):
            continue
        reached = np.cumsum(sizes[members])
        seen += int(reached[-1])
        # Aiming at the running total, not at each label's, keeps the whole at the wanted size.
        share = int(np.argmin(np.abs(np.concatenate(([0], reached)) - (fraction * seen - taken))))
        if reached[-1] > 1:
            share = max(share, 1)
        chosen[members[:share]] = True
        taken += int(reached[share - 1]) if share else 0
    mask: Mask = np.empty(len(groups), dtype=bool)
    mask[by_group] = np.repeat(chosen, sizes)
    return mask
