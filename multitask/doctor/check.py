"""One thing that was looked at, and how it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multitask.errors import MultitaskError

State = Literal["ok", "warning", "problem"]

# How MultitaskError puts its remedy into its message.
_FIX = "\n  fix: "


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        group: The heading it stands under.
        name: What was looked at.
        state: ``problem`` is what would end a training, or spoil it; ``warning`` what may, or
            what could not be looked at.
        found: What was found, in a few words.
        fix: What to do about it; empty where nothing is to be done.
    """

    group: str
    name: str
    state: State
    found: str
    fix: str = ""

    def record(self) -> dict[str, str]:
        """What ``--json`` prints."""
        return {
            "group": self.group,
            "name": self.name,
            "state": self.state,
            "found": self.found,
            "fix": self.fix,
        }


def ok(group: str, name: str, found: str) -> Check:
    """A check that went well."""
    return Check(group, name, "ok", found)


def warning(group: str, name: str, found: str, fix: str = "") -> Check:
    """A check that found something to look at."""
    return Check(group, name, "warning", found, fix)


def problem(group: str, name: str, found: str, fix: str) -> Check:
    """A check that found what must be mended."""
    return Check(group, name, "problem", found, fix)


def refused(group: str, name: str, error: MultitaskError, state: State = "problem") -> Check:
    """What one of our own errors says, as a check."""
    found, _, fix = str(error).partition(_FIX)
    return Check(group, name, state, found, fix)
