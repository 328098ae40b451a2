"""Texts that are nearly the same: MinHash finds candidates, exact similarity decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from multitask.data.normal_form import content, without_punctuation
from multitask.tasks import Example

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
