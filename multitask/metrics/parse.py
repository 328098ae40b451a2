"""From a generated text to an answer: which label, or which option letter, it names.

The rules are few and strict, since they decide what counts as right:

A **label** is named by a text that (1) is the label, letter for letter, apart from white space
around it; or else (2) has the same words; or else (3) begins with the label's words, the longest
such label if one begins another. Words are runs of letters and digits, without regard to case and
Unicode form: ``card_arrival``, ``Card arrival.`` and ``card-arrival`` have the same words. Where
two labels have the same words, a text with those words names neither, unless by (1).

A **letter** is named by a text that (1) is one letter, of either case, with nothing but
punctuation around it; or else by (2) the first capital that stands alone: ``The answer is B.``
names B, ``A or B`` names A. Letters of options that the question does not have are passed over.

Anything else is off-list.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from multitask.metrics.estimate import Clusters, Estimate, share
from multitask.tasks import letter

_NO_WORD = re.compile(r"[\W_]+")
# A capital with no letter, digit or apostrophe next to it: not the "I" of "I'd".
_CAPITAL = re.compile(r"(?<![\w'\u2019])[A-Z](?![\w'\u2019]\w|\w)")


def parse_labels(texts: Sequence[str], labels: Sequence[str]) -> list[str | None]:
    """The label that each text names, by the rules above.

    Returns:
        A label, or None (off-list), per text.
    """
    verbatim = {label.strip(): label for label in labels}
    by_words: dict[tuple[str, ...], str | None] = {}
    for label in labels:
        words = _words(label)
        by_words[words] = None if words in by_words else label
    by_words.pop((), None)
    longest = max(map(len, by_words), default=0)

    def parse(text: str) -> str | None:
        if text.strip() in verbatim:
            return verbatim[text.strip()]
        words = _words(text)
        for count in range(min(longest, len(words)), 0, -1):
            if words[:count] in by_words:
                return by_words[words[:count]]
        return None

    return [parse(text) for text in texts]


def parse_letter(text: str, options: int) -> str | None:
    """The option letter that a text names, by the rules above; None where it names none.

    Args:
        text: What was generated.
        options: How many options the question has.
    """
    known = {letter(i) for i in range(options)}
    words = _NO_WORD.sub(" ", text).split()
    if len(words) == 1 and words[0].upper() in known:
        return words[0].upper()
    return next((found for found in _CAPITAL.findall(text) if found in known), None)


def off_list_rate(
    parsed: Sequence[str | None], *, clusters: Clusters | None = None, seed: int = 0
) -> Estimate:
    """Share of generated answers that name no label, with Wilson's interval.

    Args:
        parsed: What :func:`parse_labels` or :func:`parse_letter` made of each.
        clusters: The item of every row, where items have several; the interval is then a
            clustered bootstrap.
        seed: Seeds the bootstrap.

    Raises:
        ValueError: There are no rows.
    """
    return share([answer is None for answer in parsed], clusters=clusters, seed=seed)


def _words(text: str) -> tuple[str, ...]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(_NO_WORD.sub(" ", folded).split())
