"""The two ways a command ends badly, and how their messages are put together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

LONGEST_ECHO = 200
"""Characters of a value of the user's that a message repeats."""

_LONGEST_PART = 2000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_QUOTED = re.compile(rf"(['\"`])((?:(?!\1)[^\n]){{{LONGEST_ECHO + 1},}})\1")


class MultitaskError(Exception):
    """The work failed (exit code 1): training died, a model does not load, a disk is full.

    Attributes:
        what: What is wrong.
        where: The place it was found in, or None.
        fix: What to do about it, or None.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        """Build the one message a user sees.

        Args:
            what: What is wrong, in one sentence without a final period.
            where: The file, with row or key, that it was found in.
            fix: What to do about it.
        """
        self.what, self.where, self.fix = what, where, fix
        text = bounded(what if where is None else f"{where}: {what}")
        super().__init__(text if fix is None else f"{text}\n  fix: {bounded(fix)}")


class InputError(MultitaskError):
    """The input was wrong (exit code 2): a spec, a data file, an argument."""

    exit_code = 2


def shown(value: object) -> str:
    """A value as a message repeats it: ``repr``, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}… ({len(text):,} long)"


def bounded(text: str) -> str:
    """A message without control characters, with what it quotes cut where it is long."""
    text = _QUOTED.sub(lambda m: f"{m[1]}{m[2][:LONGEST_ECHO]}…{m[1]} ({len(m[2]):,} long)", text)
    text = _CONTROL.sub(lambda m: ascii(m[0])[1:-1], text)
    half = _LONGEST_PART // 2  # the end often says where to look
    return text if len(text) <= _LONGEST_PART else f"{text[:half]}…{text[-half:]}"


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Put a spec's file before the key that an error in the block names alone."""
    try:
        yield
    except MultitaskError as error:
        where = str(error.where or "")
        if not where.startswith(("key '", "task '", "template '")):
            raise
        raise type(error)(error.what, where=f"{path}: {where}", fix=error.fix) from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant, or list them all.

    Returns:
        ``did you mean 'x'?`` when a known word is close, else ``known: a, b, c``.
    """
    names = sorted(known)
    close = get_close_matches(word[:LONGEST_ECHO], names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
