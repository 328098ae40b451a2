"""The leakage gate: no row that is trained on is also tested on, within and across tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np

from multitask.data.near_duplicates import connected, near_duplicates
from multitask.data.normal_form import (
    Fingerprints,
    fingerprints,
    letters_only,
    normalised,
    without_punctuation,
)
from multitask.tasks import Example

LEVELS = ("exact", "normalised", "without punctuation", "letters only", "near")


@dataclass
class Part:
    """Some rows of a task, with what the gate needs to know of them.

    Attributes:
        task: The task's name.
        split: Where the rows stand now.
        examples: The rows.
        keys: Their fingerprints.
        groups: Their group fingerprints: equal for duplicates and near-duplicates.
    """

    task: str
    split: str
    examples: list[Example]
    keys: Fingerprints = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    groups: Fingerprints = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))

    def __post_init__(self) -> None:
        if not len(self.keys):
            self.keys = fingerprints(self.examples)
        if not len(self.groups):
            self.groups = self.keys

    def take(self, mask: np.ndarray[tuple[int], np.dtype[np.bool_]], split: str) -> Part:
        """The rows where ``mask`` is true, under another split's name."""
        places = np.flatnonzero(mask)
        examples = list(compress(self.examples, mask.tolist()))
        return Part(self.task, split, examples, self.keys[places], self.groups[places])


@dataclass(frozen=True)
class Leak:
    """A row that was taken out because a row that must stay says the same.

    Attributes:
        level: How alike they are: one of :data:`LEVELS`.
    """

    task: str
    id: str
    split: str
    level: str
    other_task: str
    other_id: str
    other_split: str

    def record(self) -> dict[str, str]:
        """What the manifest keeps."""
        return {
            "task": self.task,
            "id": self.id,
            "removed_from": self.split,
            "level": self.level,
            "same_as": f"{self.other_task}/{self.other_split}/{self.other_id}",
        }


Neighbours = dict[int, tuple[int, ...]]


def mark_near_duplicates(parts: Sequence[Part], *, threshold: float, seed: int) -> Neighbours:
    """Find near-duplicate texts over all parts and give them common groups.

    A group is all that is connected by such pairs; rows of a group are never split. A leak is
    only a direct pair, so the pairs are returned as well.

    Returns:
        For every content fingerprint that has some, the fingerprints of its near-duplicates.
    """
    keys = np.concatenate([part.keys for part in parts])
    examples = [example for part in parts for example in part.examples]
    unique, first = np.unique(keys, return_index=True)
    pairs = near_duplicates([examples[i] for i in first], threshold=threshold, seed=seed)
    found: dict[int, list[int]] = {}
    for pair in pairs:
        one, two = int(unique[pair.first]), int(unique[pair.second])
        found.setdefault(one, []).append(two)
        found.setdefault(two, []).append(one)
    group = unique[connected(len(unique), [(pair.first, pair.second) for pair in pairs])]
    for part in parts:
        part.groups = group[np.searchsorted(unique, part.keys)]
    return {key: tuple(sorted(others)) for key, others in found.items()}


def remove_leaks(
    candidates: Sequence[Part], protected: Sequence[Part], neighbours: Neighbours
) -> list[Leak]:
    """Take out of ``candidates`` every row that a protected row says as well.

    Args:
        candidates: Rows that may be dropped; changed in place.
        protected: Rows that stay, such as test rows.
        neighbours: Near-duplicates by fingerprint, from :func:`mark_near_duplicates`.

    Returns:
        The rows taken out, in order.
    """
    known = np.concatenate([part.keys for part in protected] or [np.zeros(0, dtype=np.uint64)])
    near: dict[int, int] = {}
    if neighbours:
        near = {other: key for key in known.tolist() for other in neighbours.get(key, ())}
    known = np.concatenate([known, np.fromiter(near, dtype=np.uint64, count=len(near))])
    hits = [np.isin(part.keys, known) for part in candidates]
    if not any(hit.any() for hit in hits):
        return []
    where: dict[int, tuple[Part, int]] = {}
    for part in protected:
        for i, key in enumerate(part.keys.tolist()):
            where.setdefault(key, (part, i))
    leaks = []
    for part, hit in zip(candidates, hits, strict=True):
        for i in np.flatnonzero(hit).tolist():
            key = int(part.keys[i])
            other, j = where[key] if key in where else where[near[key]]
            leaks.append(_leak(part, part.examples[i], other, other.examples[j]))
        kept = part.take(~hit, part.split)
        part.examples, part.keys, part.groups = kept.examples, kept.keys, kept.groups
    return leaks


def _leak(part: Part, row: Example, other: Part, twin: Example) -> Leak:
    level = _level(row, twin)
    return Leak(part.task, row.id, part.split, level, other.task, twin.id, other.split)


def _level(one: Example, two: Example) -> str:
    """The strictest sense in which two rows are the same."""
    if (one.text, one.context, one.choices) == (two.text, two.context, two.choices):
        return "exact"
    for level, form in (
        ("normalised", normalised),
        ("without punctuation", without_punctuation),
        ("letters only", letters_only),
    ):
        if _in_form(one, form) == _in_form(two, form):
            return level
    return "near"


def _in_form(example: Example, form: Callable[[str], str]) -> list[str]:
    options = sorted(form(choice) for choice in example.choices)
    return [form(example.text), form(example.context), *options]


def duplicates_within(part: Part) -> dict[str, int]:
    """Count the rows of a part that repeat an earlier one, and those that contradict it.

    Returns:
        ``repeated``: rows beyond the first with the same content; ``contradictory``: contents
        that occur with more than one label.
    """
    _, inverse, counts = np.unique(part.keys, return_inverse=True, return_counts=True)
    repeated = int((counts - 1).sum())
    labels: dict[int, set[str]] = {}
    for i in np.flatnonzero(counts[inverse] > 1):
        labels.setdefault(int(inverse[i]), set()).add(part.examples[i].label)
    return {
        "repeated": repeated,
        "contradictory": sum(len(found) > 1 for found in labels.values()),
    }


def summary(leaks: Sequence[Leak]) -> dict[str, dict[str, int]]:
    """Removed rows by ``task/split`` and level."""
    counts: dict[str, Counter[str]] = {}
    for leak in leaks:
        counts.setdefault(f"{leak.task}/{leak.split}", Counter())[leak.level] += 1
    return {
        place: {level: found[level] for level in LEVELS if found[level]}
        for place, found in sorted(counts.items())
    }
