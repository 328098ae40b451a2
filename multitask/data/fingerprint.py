"""Normal forms of texts, what they must keep of the meaning, and 64-bit fingerprints of them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from multitask.data.rows import NOTHING, Rows, arrow
from multitask.tasks import Example

Fingerprints = npt.NDArray[np.uint64]
Marks = tuple[str, ...]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_LETTERS = (string.punctuation + string.whitespace).encode()

# As in `normalised`.
_SCRIPTS = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u215f\u2189"
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"))

_EMOTICON = r"""
    [<>]?[:;=]['*^o-]?(?:[()\[\]{}/\\|@*]|[dpo3](?![^\W_]))      # :) ;-( =D :'( :/ :3
    | (?<![^\W_])[8x]-?[()d](?![^\W_])                             # 8) xD
    | [()]['*^o-]?[:;=]                                            # (: ):
    | <+/?3+(?!\d)                                                 # <3 </3"""
_MARK = re.compile(
    rf"""{_EMOTICON}
    | \.?\d+(?:[.,:/]\d+)*                                         # 1.23  1,000  12:30  1/2  .5
    | [{_SCRIPTS}]+
    | -+(?=\ ?[\d(=>])|(?<=[\d)])-+|(?<=[\d)]\ )-+                 # 12 - 3, -5, ->; not top-up
    | (?<=\b\w\ )-(?=\ \w\b)|(?<!\S)-+(?=\w)                      # a - b, --force
    | [()](?=\ ?[\d(+*/<>=-])|(?<=[\d)+*/=<>-])\ ?[()]             # 2 * (3 + 4)
    | (?<=\d)[!'"](?!\w)|!(?==)                                    # 5! 5' !=
    | (?<![^\W\d_])/|/(?![^\W\d_])                                 # 6 / 2; not and/or
    | [][{{}}+*=<>%&#@^~|_$\\]
    | [^\x00-\x7f\w\s]""",
    re.VERBOSE,
)
# White space that is not one space between words, and the null character.
_UNEVEN = r"[\x00\t-\r\x1c-\x1f]|  |^ | $"


def normalised(text: str) -> str:
    """Unicode NFKC, case folded, runs of white space as one space, invisible characters left out.

    Superscripts, subscripts and fractions stay: NFKC makes the same of 2\u2075 and 25.
    """
    # Whole in itself: the export for lm_eval carries the source of this function.
    if text.isascii():
        return " ".join(text.lower().split())
    # Zero-width spaces, soft hyphens, direction and variation marks.
    invisible = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufe0e\ufe0f\ufeff"))
    scripts = "([\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u215f\u2189]+)"
    pieces = re.split(scripts, text.translate(invisible))
    pieces[::2] = [unicodedata.normalize("NFKC", piece).casefold() for piece in pieces[::2]]
    return " ".join("".join(pieces).split())


def without_punctuation(text: str) -> str:
    """As :func:`normalised`, with punctuation and symbols left out."""
    if text.isascii():
        return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
    kept = (c for c in normalised(text) if unicodedata.category(c)[0] not in "PS")
    return " ".join("".join(kept).split())


def letters_only(text: str) -> str:
    """As :func:`without_punctuation`, without white space: `top-up`, `top up` and `topup` agree.

    A text that has no letters or digits stays as it is.
    """
    if text.isascii():
        return text.lower().encode().translate(None, _NO_LETTERS).decode() or text
    # Letters that were apart may combine once they stand together.
    return normalised(without_punctuation(text).replace(" ", "")) or text


def marks(text: str) -> Marks:
    """What carries meaning besides letters: numbers, operators, symbols and emoticons, in order.

    ``12 + 3``, ``1 + 23`` and ``1.23`` have the same letters and digits and other marks; so have
    ``C++`` and ``C#``, ``:)`` and ``:(``. Hyphens and slashes between letters are none.
    """
    found = _MARK.findall(normalised(text).translate(_DASHES))
    return tuple(
        mark.strip()
        for mark in found
        if mark.isascii() or unicodedata.category(mark[0]) in ("Sm", "Sc", "So", "Sk", "No")
    )


def marks_of(example: Example) -> tuple[Marks, ...]:
    """The marks of a row's text, of its input, and of its options, whose order does not count."""
    options = sorted((letters_only(choice), marks(choice)) for choice in example.choices)
    return (marks(example.text), marks(example.context), *(found for _, found in options))


def content(example: Example, form: Callable[[str], str]) -> str:
    """A row's text, input and options in a normal form; the order of options does not count."""
    parts = [form(example.text)]
    if example.context:
        parts.append(form(example.context))
    if example.choices:
        parts += sorted(map(form, example.choices))
    return "\x1f".join(parts)


def fingerprints(rows: Rows) -> tuple[Fingerprints, Fingerprints]:
    """64-bit XXH3 hashes of every row's content, the same on every machine.

    Among a million different texts, the chance that any two share one is about 3 in 10^8.

    Returns:
        Those of the normal form (:func:`normalised`), and those of the letters
        (:func:`letters_only`).
    """
    keys, letters = (np.empty(len(rows), dtype=np.uint64) for _ in range(2))
    step = rows.step
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        for found, forms in zip((keys, letters), _contents(block), strict=True):
            hashes = map(xxh3_64_intdigest, forms)
            found[start : start + step] = np.fromiter(hashes, np.uint64, len(block))
    return keys, letters


def _contents(rows: Rows) -> tuple[list[bytes], list[bytes]]:
    """Both contents of rows; of plain ASCII texts, all of them at once."""
    texts = rows.column("text")
    plain = pc.and_not(pc.string_is_ascii(texts), pc.match_substring_regex(texts, _UNEVEN))
    if not rows.text_alone:
        plain = arrow(np.zeros(len(rows), dtype=bool))
    lower = pc.if_else(plain, pc.ascii_lower(texts), NOTHING).cast(pa.large_binary()).to_pylist()
    bare = b"\0".join(lower).translate(None, _NO_LETTERS).split(b"\0")
    letters = [letters or text for letters, text in zip(bare, lower, strict=True)]
    careful = pc.indices_nonzero(pc.invert(plain)).to_numpy()
    for place, row in zip(careful.tolist(), rows.take(careful), strict=True):
        lower[place] = content(row, normalised).encode()
        letters[place] = content(row, letters_only).encode()
    return lower, letters


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
