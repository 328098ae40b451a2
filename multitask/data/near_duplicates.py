"""Texts that are nearly the same: MinHash finds candidates, exact similarity decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from multitask.data.normal_form import without_punctuation
from multitask.tasks import Example

_SHINGLE = 5
_PERMUTATIONS = 128


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows, by position, and the Jaccard similarity of their shingles."""

    first: int
    second: int
    similarity: float


def shingles(example: Example) -> frozenset[str]:
    """Character 5-grams of the text (and input and options) in normal form."""
    text = without_punctuation(" ".join((example.text, example.context, *sorted(example.choices))))
    return frozenset(text[i : i + _SHINGLE] for i in range(max(1, len(text) - _SHINGLE + 1)))


def near_duplicates(examples: Sequence[Example], *, threshold: float, seed: int = 0) -> list[Pair]:
    """Find pairs of rows whose shingles have at least a given Jaccard similarity.

    MinHash with locality-sensitive hashing (Broder, 1997; Leskovec et al., "Mining of Massive
    Datasets", chapter 3) proposes pairs; each is checked exactly, so there are no false ones. A
    true pair at the threshold itself can be missed; well above it that is unlikely.

    Args:
        examples: The rows; those with the same content key should be there once.
        threshold: Least similarity, 0 to 1.
        seed: Seeds MinHash's permutations.

    Returns:
        Pairs with ``first < second``, in order.
    """
    from datasketch import MinHash, MinHashLSH

    sets = [shingles(example) for example in examples]
    lsh = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
    hashes = MinHash.generator(
        [[shingle.encode() for shingle in found] for found in sets],
        num_perm=_PERMUTATIONS,
        seed=seed + 1,
    )
    pairs = []
    for index, minhash in enumerate(hashes):
        for other in lsh.query(minhash):
            similarity = jaccard(sets[index], sets[other])
            if similarity >= threshold:
                pairs.append(Pair(other, index, similarity))
        lsh.insert(index, minhash, check_duplication=False)
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def jaccard(one: frozenset[str], two: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    both = len(one & two)
    return both / (len(one) + len(two) - both)


def connected(count: int, pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Join rows that are connected by pairs; gives every row the smallest position in its group."""
    parent = np.arange(count)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for one, two in pairs:
        a, b = root(one), root(two)
        parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(count)], dtype=np.int64)
