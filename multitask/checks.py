"""The one form of a check: a question, its answer, and what to do about it.

``doctor`` asks about a machine, ``build-config`` about a configuration, ``rehearse`` about what a
small training did, and the start of ``train`` about the nodes; all give :class:`Check`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from multitask.errors import InputError, MultitaskError

Severity = Literal["ok", "warning", "problem"]

# How MultitaskError puts its remedy into its message.
_FIX = "\n  fix: "


@dataclass
class Check:
    """A question and its answer.

    Attributes:
        answer: What was found, in a few words without a final period.
        place: Where: a key with dots for nesting (``fsdp_config.state_dict_type``), a node, or
            the heading that it is shown under.
        remedy: What to do about it; empty where nothing is to be done.
        severity: ``problem`` is what ends a training, spoils it or silently trains something
            else; ``warning`` is what may, or what could not be looked at.
        question: What was looked at; empty where the place says it.
        seconds: How long it took.
    """

    answer: str
    place: str = ""
    remedy: str = ""
    severity: Severity = "problem"
    question: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.place}: {self.answer}{_FIX}{self.remedy}"

    @property
    def passed(self) -> bool:
        """Whether it is no problem."""
        return self.severity != "problem"

    def fail(self, answer: str) -> None:
        """Make it a problem."""
        self.severity, self.answer = "problem", answer


def judged(place: str, question: str, severity: Severity, answer: str, remedy: str = "") -> Check:
    """A check of which it depends how bad its answer is."""
    return Check(answer, place, remedy, severity, question)


def ok(place: str, question: str, answer: str) -> Check:
    """A check that went well."""
    return judged(place, question, "ok", answer)


def warning(place: str, question: str, answer: str, remedy: str = "") -> Check:
    """A check that found something to look at."""
    return judged(place, question, "warning", answer, remedy)


def problem(place: str, question: str, answer: str, remedy: str) -> Check:
    """A check that found what must be mended."""
    return judged(place, question, "problem", answer, remedy)


def refused(
    place: str, question: str, error: MultitaskError, severity: Severity = "problem"
) -> Check:
    """What one of our own errors says, as a check."""
    answer, _, remedy = str(error).partition(_FIX)
    return judged(place, question, severity, answer, remedy)


def refuse(checks: Iterable[Check], *, where: object = None) -> tuple[Check, ...]:
    """Raise for the problems among checks, all in one message.

    Args:
        checks: What was found.
        where: The file or the spec's key that was checked.

    Returns:
        The checks, when there is no problem among them.

    Raises:
        InputError: There is one.
    """
    found = tuple(checks)
    problems = [check for check in found if not check.passed]
    if len(problems) == 1:
        (only,) = problems
        place = only.place if where is None else f"{where}: {only.place}"
        raise InputError(only.answer, where=place, fix=only.remedy)
    if problems:
        listed = "\n".join(f"- {check}" for check in problems)
        raise InputError(f"{len(problems)} things are wrong\n{listed}", where=where)
    return found


class CheckFailedError(MultitaskError):
    """A check failed in a way that makes the later ones pointless."""


@dataclass
class Checklist:
    """Checks that are made by trying something, one after the other.

    Attributes:
        checks: In order.
        on_check: Told each check when it has ended.
    """

    checks: list[Check] = field(default_factory=list)
    on_check: Callable[[Check], None] = lambda _check: None

    @property
    def passed(self) -> bool:
        """Whether all went well."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @contextmanager
    def check(self, question: str, *, needed: bool = False) -> Iterator[Check]:
        """Try something; an error of ours, or :meth:`Check.fail`, makes it a problem.

        Args:
            question: What is tried.
            needed: Whether later checks are pointless without it.

        Raises:
            CheckFailedError: It failed and is needed.
        """
        check = Check("", question=question, severity="ok")
        self.checks.append(check)
        start = time.monotonic()
        try:
            yield check
        except (MultitaskError, OSError, ValueError, RuntimeError, KeyError) as error:
            check.fail(str(error) or type(error).__name__)
        except BaseException as error:
            check.fail(type(error).__name__)
            raise
        check.seconds = time.monotonic() - start
        self.on_check(check)
        if needed and not check.passed:
            raise CheckFailedError(f"{question}: {check.answer}")
