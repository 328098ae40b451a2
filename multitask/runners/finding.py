"""What a check of a configuration found, and how findings become one refusal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from multitask.errors import InputError


@dataclass(frozen=True)
class Finding:
    """Something wrong, or doubtful, in a configuration.

    Attributes:
        what: What is wrong, in one sentence without a final period.
        where: The key, with dots for nesting: ``fsdp_config.state_dict_type``.
        fix: What to do about it.
        severity: ``error`` when the training would fail or silently do something else.
    """

    what: str
    where: str
    fix: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n  fix: {self.fix}"


def refuse(findings: Iterable[Finding], *, where: object = None) -> tuple[Finding, ...]:
    """Raise for the errors among findings, all in one message.

    Args:
        findings: What the checks found.
        where: The file or the spec's key that was checked.

    Returns:
        The warnings, when there is no error.

    Raises:
        InputError: There is an error.
    """
    found = tuple(findings)
    errors = [finding for finding in found if finding.severity == "error"]
    if len(errors) == 1:
        only = errors[0]
        place = only.where if where is None else f"{where}: {only.where}"
        raise InputError(only.what, where=place, fix=only.fix)
    if errors:
        listed = "\n".join(f"- {finding}" for finding in errors)
        raise InputError(f"{len(errors)} things are wrong\n{listed}", where=where)
    return found
