"""Normal forms of texts, and 64-bit fingerprints of them."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from multitask.tasks import Example

Fingerprints = npt.NDArray[np.uint64]

_BLOCK = 1024

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_LETTERS = (string.punctuation + string.whitespace).encode()


def normalised(text: str) -> str:
    """Unicode NFKC, case folded, runs of white space as one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).casefold()
        return " ".join(text.split())
    return " ".join(text.lower().split())


def without_punctuation(text: str) -> str:
    """As :func:`normalised`, with punctuation and symbols left out."""
    if text.isascii():
        return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c for c in folded if unicodedata.category(c)[0] not in "PS").split())


def letters_only(text: str) -> str:
    """As :func:`without_punctuation`, without white space: `top-up`, `top up` and `topup` agree.

    A text that has no letters or digits stays as it is.
    """
    if text.isascii():
        return text.lower().encode().translate(None, _NO_LETTERS).decode() or text
    # Letters that were apart may combine once they stand together.
    return unicodedata.normalize("NFKC", without_punctuation(text).replace(" ", "")) or text


def content_key(example: Example) -> str:
    """What makes two rows the same question: the letters of its text, input and options.

    The order of options does not count.
    """
    parts = [letters_only(example.text)]
    if example.context:
        parts.append(letters_only(example.context))
    if example.choices:
        parts += sorted(letters_only(choice) for choice in example.choices)
    return "\x1f".join(parts)


def fingerprints(examples: Sequence[Example]) -> Fingerprints:
    """A 64-bit XXH3 hash of every row's content key, the same on every machine.

    Among a million different texts, the chance that any two share one is about 3 in 10^8.
    """
    keys: list[bytes] = []
    for start in range(0, len(examples), _BLOCK):
        keys += _content_keys(examples[start : start + _BLOCK])
    return np.fromiter(map(xxh3_64_intdigest, keys), dtype=np.uint64, count=len(keys))


def _content_keys(examples: Sequence[Example]) -> list[bytes]:
    """The content keys of some rows; where all are plain ASCII texts, all of them at once."""
    _, texts, _, choices, contexts = zip(*examples, strict=True)
    joined = "\0".join(texts)
    plain = joined.isascii() and not any(choices) and not any(contexts)
    if plain and joined.count("\0") == len(texts) - 1:
        letters = joined.lower().encode().translate(None, _NO_LETTERS).split(b"\0")
        if all(letters):
            return letters
    return [content_key(example).encode() for example in examples]


def draw(values: Fingerprints, seed: int) -> Fingerprints:
    """Pseudo-random numbers that follow from each value and the seed alone.

    The finaliser of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number
    generators"), over all values at once.
    """
    with np.errstate(over="ignore"):
        x = values + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Fingerprints = x ^ (x >> np.uint64(31))
    return mixed
