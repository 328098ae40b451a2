"""What a user asks of a rehearsal, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from multitask.checks import Checklist
from multitask.rehearsal.adapt import Change
from multitask.rehearsal.faults import Fault
from multitask.run import Run


@dataclass(frozen=True)
class Wishes:
    """What a user asks of a rehearsal.

    Attributes:
        nodes: Nodes; None for the cluster's.
        procs: Ranks of each; None for the cluster's GPUs.
        faults: What goes wrong in the disturbed run.
        undisturbed_only: Leave the disturbed run out.
        netns: Give every node a network namespace.
    """

    nodes: int | None = None
    procs: int | None = None
    faults: tuple[Fault, ...] = ()
    undisturbed_only: bool = False
    netns: bool = False


@dataclass
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        run: The run that was rehearsed.
        nodes: Nodes.
        procs: Ranks of each.
        checks: The named checks.
        changes: What the rehearsal had otherwise than the cluster.
        losses: Training losses by step of the ``undisturbed`` and the ``disturbed`` run.
        faults: Names of what went wrong on purpose.
        lost: Steps that were trained again after each restart.
        seconds: How long it took.
    """

    run: Run
    nodes: int
    procs: int
    checks: Checklist
    changes: list[Change] = field(default_factory=list)
    losses: dict[str, dict[int, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every check went well."""
        return self.checks.passed

    def record(self) -> dict[str, Any]:
        """What rehearsal.json keeps."""
        return {
            "passed": self.passed,
            "nodes": self.nodes,
            "procs": self.procs,
            "seconds": round(self.seconds, 1),
            "checks": [
                {
                    "name": check.question,
                    "passed": check.passed,
                    "detail": check.answer,
                    "seconds": round(check.seconds, 2),
                }
                for check in self.checks.checks
            ],
            "changes": [change.record() for change in self.changes],
            "not_proven": not_proven(self.changes),
            "faults": self.faults,
            "steps_lost": self.lost,
            "losses": self.losses,
        }


def not_proven(changes: Sequence[Change]) -> list[str]:
    """What a rehearsal on a CPU cannot show, each once."""
    always = ["NCCL and the cluster's network", "memory and speed of the GPUs"]
    return list(dict.fromkeys([*always, *(c.unproven for c in changes if c.unproven)]))
