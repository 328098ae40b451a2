"""Stratified, seeded splits that do not depend on the order of the rows."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from multitask.tasks import Example


def row_key(example: Example, seed: int) -> bytes:
    """A number drawn for a row from its content and the seed alone."""
    content = "\x1f".join((str(seed), example.text, example.label, *example.choices))
    return hashlib.blake2b(content.encode(), digest_size=8).digest()


def stratified_split(
    examples: Sequence[Example], fraction: float, *, seed: int
) -> tuple[list[Example], list[Example]]:
    """Divide rows into two parts that have the same label proportions.

    The first part has ``round(fraction * n)`` rows, each label's share of it is within one row
    of ``fraction``, and a label with at least two rows has at least one in the first part. Which
    row goes where follows from its content, so a shuffled input gives the same parts.

    Args:
        examples: The rows.
        fraction: Share of the first part, between 0 and 1.
        seed: Another seed draws other rows.

    Returns:
        The two parts, each in the order of ``examples``.
    """
    by_label: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        by_label[example.label].append(index)
    first: set[int] = set()
    seen = taken = 0
    for label in sorted(by_label):
        members = sorted(
            by_label[label], key=lambda i: (row_key(examples[i], seed), examples[i].id)
        )
        seen += len(members)
        # Rounding the running total, not each label, keeps the whole at the wanted size.
        count = max(round(fraction * seen) - taken, 1 if len(members) > 1 else 0)
        count = min(count, len(members))
        taken += count
        first.update(members[:count])
    return (
        [example for i, example in enumerate(examples) if i in first],
        [example for i, example in enumerate(examples) if i not in first],
    )
