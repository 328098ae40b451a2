"""The two ways a command ends badly, and how their messages are put together."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MultitaskError(Exception):
    """The work failed (exit code 1): training died, a model does not load, a disk is full."""

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        """Build the one message a user sees.

        Args:
            what: What is wrong, in one sentence without a final period.
            where: The file, with row or key, that it was found in.
            fix: What to do about it.
        """
        text = what if where is None else f"{where}: {what}"
        super().__init__(text if fix is None else f"{text}\n  fix: {fix}")


class InputError(MultitaskError):
    """The input was wrong (exit code 2): a spec, a data file, an argument."""

    exit_code = 2


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant, or list them all.

    Returns:
        ``did you mean 'x'?`` when a known word is close, else ``known: a, b, c``.
    """
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
