"""The named checks of a rehearsal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from multitask.errors import MultitaskError


@dataclass
class Check:
    """One thing that was tried.

    Attributes:
        name: What.
        passed: Whether it went well; None while it runs.
        detail: A figure, or what went wrong.
        seconds: How long it took.
    """

    name: str
    passed: bool | None = None
    detail: str = ""
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """What rehearsal.json keeps."""
        return {
            "name": self.name,
            "passed": bool(self.passed),
            "detail": self.detail,
            "seconds": round(self.seconds, 2),
        }


class CheckFailedError(MultitaskError):
    """A check failed in a way that makes the later ones pointless."""


@dataclass
class Checklist:
    """The checks so far.

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
    def check(self, name: str, *, needed: bool = False) -> Iterator[Check]:
        """Try something; an error of ours, or an ``assert``-like :meth:`fail`, fails the check.

        Args:
            name: What is tried.
            needed: Whether later checks are pointless without it.

        Raises:
            CheckFailedError: It failed and is needed.
        """
        check = Check(name)
        self.checks.append(check)
        start = time.monotonic()
        try:
            yield check
            check.passed = check.passed is not False
        except (MultitaskError, OSError, ValueError, RuntimeError, KeyError) as error:
            check.passed = False
            check.detail = str(error) or type(error).__name__
        finally:
            check.seconds = time.monotonic() - start
            if check.passed is not None:
                self.on_check(check)
        if needed and not check.passed:
            raise CheckFailedError(f"{name}: {check.detail}")


def fail(check: Check, detail: str) -> None:
    """Mark a check as failed, and say why."""
    check.passed, check.detail = False, detail
