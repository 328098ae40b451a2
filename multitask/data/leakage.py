"""The leakage gate: no row that is trained on is also tested on, within and across tasks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

from multitask.data.fingerprint import (
    Fingerprints,
    content,
    fingerprints,
    letters_only,
    marks_of,
    normalised,
    without_punctuation,
)
from multitask.data.rows import Rows
from multitask.task_spec import LEVELS, LeakageSpec, Level
from multitask.tasks import Example

_RANK = {level: rank for rank, level in enumerate(LEVELS)}
# Most rows of a class that near-duplicates may hold together in a split: this share, or this many.
_GROUP_SHARE = 0.05
_SMALL_GROUP = 5

# For the fingerprint of a row's letters, those of the rows nearly like it, and how like they are.
Neighbours = Mapping[int, Mapping[int, float]]
Twins = Mapping[int, Sequence[tuple["Part", Example]]]


def _nothing() -> Fingerprints:
    return np.zeros(0, dtype=np.uint64)


@dataclass
class Part:
    """Some rows of a task, with what the gate needs to know of them.

    Without ``keys``, rows of one normal form are put into an order that follows from all that they
    say, so that no draw depends on the order they were read in.

    Attributes:
        task: The task's name.
        split: Where the rows stand now.
        examples: The rows.
        keys: Fingerprints of their normal form.
        letters: Fingerprints of their letters alone.
        groups: Equal for rows that a split keeps together.
    """

    task: str
    split: str
    examples: Rows
    keys: Fingerprints = field(default_factory=_nothing)
    letters: Fingerprints = field(default_factory=_nothing)
    groups: Fingerprints = field(default_factory=_nothing)

    def __post_init__(self) -> None:
        if len(self.keys):
            return
        self.keys, self.letters = fingerprints(self.examples)
        self.groups = self.keys
        self.examples = _settled(self.examples, self.keys)

    @property
    def labels(self) -> list[str]:
        """The rows' labels."""
        return self.examples.labels

    def take(self, mask: npt.NDArray[np.bool_], split: str) -> Part:
        """The rows where ``mask`` is true, under another split's name."""
        return Part(
            self.task,
            split,
            self.examples.take(mask),
            self.keys[mask],
            self.letters[mask],
            self.groups[mask],
        )


def _settled(rows: Rows, keys: Fingerprints) -> Rows:
    """The rows, those that share a fingerprint ordered by all that they say, then by their id.

    Only these are moved, and only among themselves: a row is what it is by its fingerprint, and
    rows that lie in the memory as they were read are faster to go through.
    """
    order = np.argsort(keys)
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if not len(same):
        return rows
    moved = order[np.union1d(same, same + 1)]
    says = {
        place: (*row[1:], row.id)
        for place, row in zip(moved.tolist(), rows.take(moved), strict=True)
    }
    settled = np.arange(len(rows))
    for run in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1):
        places = np.sort(order[run[0] : run[-1] + 2])
        settled[places] = sorted(places.tolist(), key=says.__getitem__)
    return rows.take(settled)


@dataclass(frozen=True)
class Leak:
    """A row that says what a row of a split that must stay says as well.

    Attributes:
        label: The row's own label.
        level: How alike they are: one of :data:`LEVELS`.
    """

    task: str
    id: str
    split: str
    label: str
    level: Level
    other_task: str
    other_id: str
    other_split: str

    def record(self, verb: str) -> dict[str, str]:
        """What the manifest keeps; ``verb`` says what was done in the row's split."""
        return {
            "task": self.task,
            "id": self.id,
            verb: self.split,
            "level": self.level,
            "same_as": f"{self.other_task}/{self.other_split}/{self.other_id}",
        }


class LeakageGate:
    """Compares rows of different splits, by the levels that a spec names.

    Attributes:
        neighbours: Near-duplicates by the fingerprint of their letters; None: not searched.
        removed: Rows that were taken out, in order.
        reported: Rows that the last pass kept although they are alike on a reported level.
        divided: For each task, near-duplicates that may be in different splits, since all that
            are connected would have been too large a part of it.
    """

    def __init__(self, parts: Sequence[Part], spec: LeakageSpec, *, seed: int) -> None:
        """Look for near-duplicates among all rows, where the spec wants any.

        Args:
            parts: All rows that will be compared.
            spec: What is removed and what is reported.
            seed: Seeds the search.
        """
        self._spec = spec
        wanted = {"near", "different marks"} & {*spec.remove, *spec.report}
        self.neighbours: Neighbours | None = None
        if spec.near_duplicates and wanted:
            self.neighbours = _neighbours(parts, spec.threshold, seed)
        self.removed: list[Leak] = []
        self.reported: list[Leak] = []
        self.divided: Counter[str] = Counter()

    def run(self, parts: Sequence[Part]) -> None:
        """Take rows out: test rows stay, validation rows give way to them, training rows to both.

        Args:
            parts: All rows by their present splits; changed in place.
        """
        self.reported = []
        of = {name: [p for p in parts if p.split == name] for name in ("train", "validation")}
        tests = [part for part in parts if part.split == "test"]
        self.compare(of["validation"], tests)
        self.compare(of["train"], tests + of["validation"])

    def compare(self, candidates: Sequence[Part], protected: Sequence[Part]) -> None:
        """Take rows out of ``candidates`` that a row of ``protected`` says as well.

        Args:
            candidates: Rows that may be dropped; changed in place.
            protected: Rows that stay, such as test rows.
        """
        known = np.concatenate([_nothing(), *(part.letters for part in protected)])
        if not len(known):
            return
        near: set[int] = set()
        if self.neighbours:
            near = {other for key in np.unique(known).tolist() for other in self._near(key)}
        reach = np.concatenate([known, np.fromiter(near, dtype=np.uint64, count=len(near))])
        hits = [np.isin(part.letters, reach) for part in candidates]
        if not any(hit.any() for hit in hits):
            return
        twins = _twins(protected, self._reached(candidates, hits))
        for part, hit in zip(candidates, hits, strict=True):
            stay = np.ones(len(part.examples), dtype=bool)
            for i, row in _numbered(part, hit):
                leak = self._strictest(part, row, int(part.letters[i]), twins)
                if leak is None:
                    continue
                stay[i] = leak.level not in self._spec.remove
                (self.reported if stay[i] else self.removed).append(leak)
            vars(part).update(vars(part.take(stay, part.split)))

    def _near(self, letters: int) -> Mapping[int, float]:
        return (self.neighbours or {}).get(letters, {})

    def _reached(self, parts: Sequence[Part], hits: Sequence[npt.NDArray[np.bool_]]) -> set[int]:
        own = {key for p, hit in zip(parts, hits, strict=True) for key in p.letters[hit].tolist()}
        return own | {other for key in own for other in self._near(key)}

    def _strictest(self, part: Part, row: Example, letters: int, twins: Twins) -> Leak | None:
        """The closest likeness of a row to a protected one; first those that remove it."""
        found: tuple[tuple[object, ...], Level, Part, Example] | None = None
        for key in (letters, *self._near(letters)):
            for other, twin in twins.get(key, ()):
                level = likeness(row, twin)
                if level not in self._spec.remove and level not in self._spec.report:
                    continue
                # Among equals, the one that is first by what it says, wherever it was read.
                strict = (level not in self._spec.remove, _RANK[level])
                rank = (*strict, other.task, *twin[1:])
                if found is None or rank < found[0]:
                    found = (rank, level, other, twin)
        if found is None:
            return None
        _, level, other, twin = found
        twin_is = (other.task, twin.id, other.split)
        return Leak(part.task, row.id, part.split, row.label, level, *twin_is)

    def group(self, part: Part, *, by_label: bool) -> None:
        """Give rows that would be leaks between splits of ``part`` a common group.

        A group is all that is connected by such pairs, the most alike first, but holds at most
        5 % of the rows of a label, or five: a chain of near-duplicates would otherwise draw a
        whole class into one split. Rows with the same normal form always stay together.

        Args:
            part: Rows that are going to be divided; changed in place.
            by_label: Whether the split keeps labels even; else all rows count as of one.
        """
        part.groups = part.keys
        nodes, pairs = self._pairs_within(part)
        if not pairs:
            return
        labels = part.labels if by_label else [""] * len(part.examples)
        part.groups = part.keys.copy()
        place = {key: number for number, key in enumerate(nodes)}
        weights: list[Counter[str]] = [Counter() for _ in nodes]
        members = np.flatnonzero(np.isin(part.keys, np.array(list(nodes), dtype=np.uint64)))
        for i in members.tolist():
            weights[place[int(part.keys[i])]][labels[i]] += 1
        rows = Counter(labels)
        groups = Groups(weights, lambda label: max(_SMALL_GROUP, _GROUP_SHARE * rows[label]))
        for _, _, one, two in sorted(pairs):
            groups.join(place[one], place[two])
        if groups.cut:
            self.divided[part.task] += groups.cut
        names = list(nodes)
        for i in members.tolist():
            part.groups[i] = names[groups.root(place[int(part.keys[i])])]

    def _pairs_within(
        self, part: Part
    ) -> tuple[dict[int, Example], list[tuple[int, float, int, int]]]:
        """Contents of a part by fingerprint, and pairs that are alike on a level that removes.

        Pairs are level, similarity (negative) and both contents, to be sorted.
        """
        at: dict[int, dict[int, Example]] = defaultdict(dict)
        for i, row in _numbered(part, self._grouped(part)):
            at[int(part.letters[i])].setdefault(int(part.keys[i]), row)
        nodes = {key: row for here in at.values() for key, row in here.items()}
        pairs = []
        for letters, here in at.items():
            alike = [(one, two, 1.0) for one, two in combinations(here, 2)]
            for other, similarity in self._near(letters).items():
                if letters < other:
                    alike += [(one, two, similarity) for one in here for two in at.get(other, ())]
            for one, two, similarity in alike:
                level = likeness(nodes[one], nodes[two])
                if level in self._spec.remove:
                    pairs.append((_RANK[level], -similarity, min(one, two), max(one, two)))
        return dict(sorted(nodes.items())), pairs

    def _grouped(self, part: Part) -> npt.NDArray[np.bool_]:
        """Rows whose letters are also those of another content, or nearly."""
        letters, keys = part.letters, part.keys
        in_order = np.sort(letters)
        if self.neighbours is None and (in_order[1:] != in_order[:-1]).all():
            return np.zeros(len(letters), dtype=bool)
        order = np.lexsort((keys, letters))
        same = letters[order][1:] == letters[order][:-1]
        alike = letters[order][1:][same & (keys[order][1:] != keys[order][:-1])]
        near = np.fromiter(self.neighbours or (), dtype=np.uint64)
        return np.isin(letters, np.concatenate([alike, near]))


def _neighbours(parts: Sequence[Part], threshold: float, seed: int) -> Neighbours:
    """Search near-duplicates among all contents, each task's measured by what is its own."""
    by_task: dict[str, dict[tuple[int, str], Example]] = defaultdict(dict)
    for part in parts:
        _, first = np.unique(part.keys, return_index=True)
        for i, row in zip(first.tolist(), part.examples.take(first), strict=True):
            bare = content(row, without_punctuation)
            by_task[part.task].setdefault((int(part.letters[i]), bare), row)
    keys: list[int] = []
    sets: list[frozenset[str]] = []
    for rows in by_task.values():
        in_order = sorted(rows)
        keys += [letters for letters, _ in in_order]
        sets += own_shingles([rows[place] for place in in_order])
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for pair in near_duplicates(sets, threshold=threshold, seed=seed):
        one, two = keys[pair.first], keys[pair.second]
        if one != two:
            similarity = max(pair.similarity, found[one].get(two, 0.0))
            found[one][two] = found[two][one] = similarity
    return {key: dict(sorted(others.items())) for key, others in found.items()}


def _numbered(part: Part, mask: npt.NDArray[np.bool_]) -> Iterator[tuple[int, Example]]:
    """The rows where a mask is true, with their places."""
    places = np.flatnonzero(mask)
    return zip(places.tolist(), part.examples.take(places), strict=True)


def _twins(parts: Sequence[Part], wanted: set[int]) -> Twins:
    """Rows by the fingerprint of their letters, those that say exactly the same once."""
    letters = np.fromiter(wanted, dtype=np.uint64, count=len(wanted))
    found: dict[int, dict[object, tuple[Part, Example]]] = defaultdict(dict)
    for part in parts:
        for i, row in _numbered(part, np.isin(part.letters, letters)):
            says = (row.text, row.context, row.choices)
            found[int(part.letters[i])].setdefault(says, (part, row))
    return {key: list(rows.values()) for key, rows in found.items()}


def likeness(one: Example, two: Example) -> Level:
    """The strictest sense in which two rows are the same, for rows that are at least near."""
    if (one.text, one.context, one.choices) == (two.text, two.context, two.choices):
        return "exact"
    if _in_form(one, normalised) == _in_form(two, normalised):
        return "normalised"
    if _marks(one) != _marks(two):
        return "different marks"
    if _in_form(one, without_punctuation) == _in_form(two, without_punctuation):
        return "without punctuation"
    if _in_form(one, letters_only) == _in_form(two, letters_only):
        return "letters only"
    return "near"


@lru_cache(maxsize=2**16)
def _in_form(example: Example, form: Callable[[str], str]) -> str:
    return content(example, form)


_marks = lru_cache(maxsize=2**16)(marks_of)


def duplicates_within(part: Part) -> dict[str, int]:
    """Count the rows of a part that repeat another's letters and marks, or contradict it.

    Returns:
        ``repeated``: rows beyond the first with the same content; ``contradictory``: contents
        that occur with more than one label.
    """
    _, inverse, counts = np.unique(part.letters, return_inverse=True, return_counts=True)
    labels: dict[object, Counter[str]] = defaultdict(Counter)
    for i, row in _numbered(part, counts[inverse] > 1):
        labels[int(inverse[i]), _marks(row)][row.label] += 1
    return {
        "repeated": sum(found.total() - 1 for found in labels.values()),
        "contradictory": sum(len(found) > 1 for found in labels.values()),
    }


def summary(leaks: Sequence[Leak]) -> dict[str, dict[str, int]]:
    """Rows by ``task/split`` and level."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for leak in leaks:
        counts[f"{leak.task}/{leak.split}"][leak.level] += 1
    return {
        place: {level: found[level] for level in LEVELS if found[level]}
        for place, found in sorted(counts.items())
    }


_SHINGLE = 5
_PERMUTATIONS = 128
# datasketch finds no bands for thresholds beyond this; the exact similarity decides anyway.
_HIGHEST_BANDED = 0.98

# Shared text is looked for in this many rows; what most rows have, these have too.
_SAMPLE = 2000
_LEAST_SHARED = 10
# An instruction that stands before this many inputs is not the row's own.
_LEAST_INPUTS = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows, by position, and the Jaccard similarity of their shingles."""

    first: int
    second: int
    similarity: float


def own_shingles(examples: Sequence[Example]) -> list[frozenset[str]]:
    """Character 5-grams of each row's own text without punctuation, for the rows of one task.

    What the rows share says nothing about two of them: an instruction before several inputs is
    left out, and so are shingles that most rows have, such as those of a fixed question around a
    word.

    Args:
        examples: Rows of one task that differ in content, in an order that follows from it.
    """
    before = Counter(without_punctuation(e.text) for e in examples if e.context)

    def own(example: Example) -> str:
        if example.context and before[without_punctuation(example.text)] >= _LEAST_INPUTS:
            example = example._replace(text="")
        return content(example, without_punctuation)

    sets = [_shingles(own(example)) for example in examples]
    sample = sets[:_SAMPLE]
    counts = Counter(chain.from_iterable(sample))
    least = max(_LEAST_SHARED, len(sample) / 2)
    shared = {shingle for shingle, count in counts.items() if count > least}
    return [found - shared for found in sets] if shared else sets


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[i : i + _SHINGLE] for i in range(max(1, len(text) - _SHINGLE + 1)))


def near_duplicates(
    sets: Sequence[frozenset[str]], *, threshold: float, seed: int = 0
) -> list[Pair]:
    """Find pairs of rows whose shingles have at least a given Jaccard similarity.

    MinHash with locality-sensitive hashing (Broder, 1997; Leskovec et al., "Mining of Massive
    Datasets", chapter 3) proposes pairs; each is checked exactly, so there are no false ones. A
    true pair at the threshold itself can be missed; well above it that is unlikely. Which pairs
    are found does not depend on the order of the rows.

    Args:
        sets: The rows' shingles; a row without any is like no other.
        threshold: Least similarity, 0 to 1.
        seed: Seeds MinHash's permutations.

    Returns:
        Pairs with ``first < second``, in order.
    """
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=min(threshold, _HIGHEST_BANDED), num_perm=_PERMUTATIONS)
    places = [place for place, found in enumerate(sets) if found]
    hashes = MinHash.generator(
        [[shingle.encode() for shingle in sets[place]] for place in places],
        num_perm=_PERMUTATIONS,
        seed=seed + 1,
    )
    pairs = []
    for place, minhash in zip(places, hashes, strict=True):
        for other in lsh.query(minhash):
            similarity = jaccard(sets[place], sets[other])
            if similarity >= threshold:
                pairs.append(Pair(other, place, similarity))
        lsh.insert(place, minhash, check_duplication=False)
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def jaccard(one: frozenset[str], two: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    both = len(one & two)
    return both / (len(one) + len(two) - both)


class Groups:
    """Items joined one pair at a time, as long as no group grows too large (union-find).

    Attributes:
        cut: Pairs that were not joined, since their group would have been too large.
    """

    def __init__(self, weights: Sequence[Counter[str]], most: Callable[[str], float]) -> None:
        """Begin with every item alone.

        Args:
            weights: For each item, its rows by label.
            most: Most rows of a label in one group.
        """
        self._parent = list(range(len(weights)))
        self._weights = list(weights)
        self._most = most
        self.cut = 0

    def root(self, item: int) -> int:
        """The smallest item of an item's group."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, two: int) -> None:
        """Join the groups of two items, unless they are too large together."""
        low, high = sorted((self.root(one), self.root(two)))
        if low == high:
            return
        together = self._weights[low] + self._weights[high]
        if any(count > self._most(label) for label, count in together.items()):
            self.cut += 1
            return
        self._parent[high] = low
        self._weights[low] = together
