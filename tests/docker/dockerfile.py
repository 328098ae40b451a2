"""Reads a Dockerfile: its instructions, and what its RUN steps are for a shell."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    """A line of a Dockerfile with its continuations.

    Attributes:
        name: ``RUN``, ``COPY``, ...
        flags: ``--mount=...`` and the like.
        text: What follows them.
    """

    name: str
    flags: tuple[str, ...]
    text: str


def instructions(path: Path = DOCKERFILE) -> list[Instruction]:
    """All instructions of a file."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = []
    for line in filter(None, whole.splitlines()):
        name, _, rest = line.partition(" ")
        flags = []
        while rest.startswith("--"):
            flag, _, rest = rest.partition(" ")
            flags.append(flag)
            rest = rest.lstrip()
        found.append(Instruction(name.upper(), tuple(flags), rest))
    return found


def of(name: str) -> list[Instruction]:
    """The instructions of a name."""
    return [found for found in instructions() if found.name == name]


def arguments() -> dict[str, str]:
    """Build arguments with their defaults."""
    pairs = [found.text.partition("=") for found in of("ARG")]
    return {name: value for name, _, value in pairs}


def copied() -> list[str]:
    """Paths of the context that are copied."""
    return [word for found in of("COPY") for word in shlex.split(found.text)[:-1]]
