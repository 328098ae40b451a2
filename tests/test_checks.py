"""Checks: what passes, what fails, what ends the rest."""

from __future__ import annotations

import pytest

from multitask.checks import CheckFailedError, Checklist
from multitask.errors import InputError


def test_a_check_passes_fails_or_ends_the_rest() -> None:
    told: list[str] = []
    checks = Checklist(on_check=lambda check: told.append(check.question))
    with checks.check("good") as check:
        check.answer = "fine"
    assert checks.passed
    with checks.check("bad") as check:
        check.fail("not so")
    with checks.check("worse"):
        raise InputError("wrong")
    with pytest.raises(CheckFailedError, match="needed: gone"), checks.check("needed", needed=True):
        raise OSError("gone")
    assert [check.passed for check in checks.checks] == [True, False, False, False]
    assert told == ["good", "bad", "worse", "needed"]
    assert not checks.passed


def test_a_rehearsal_without_checks_has_not_passed() -> None:
    assert not Checklist().passed
