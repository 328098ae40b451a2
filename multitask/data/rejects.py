"""Rows that cannot be used: named, counted, and refused beyond a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from multitask.errors import InputError

_KEPT = 1000


@dataclass
class Rejects:
    """The bad rows of one task.

    Attributes:
        limit: How many are tolerated; None for no limit.
        reasons: How many there are of each reason.
        listed: File, row and reason of each, up to the first thousand.
        notes: What was done to a file as a whole, such as reading it with another delimiter.
        looked_at: Rows looked at so far, good and bad.
        on_rows: Told ``looked_at`` while it grows.
    """

    limit: int | None = 0
    reasons: Counter[str] = field(default_factory=Counter)
    listed: list[dict[str, object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    looked_at: int = 0
    on_rows: Callable[[int], None] = field(default=lambda _rows: None, repr=False, compare=False)

    @property
    def count(self) -> int:
        """Bad rows in all."""
        return self.reasons.total()

    def look_at(self, rows: int) -> None:
        """Count rows that are being looked at."""
        self.looked_at += rows
        self.on_rows(self.looked_at)

    def add(self, path: Path, row: int, reason: str, *, detail: str = "") -> None:
        """Record a bad row.

        Args:
            path: Its file.
            row: Its number there.
            reason: Why; the same words for the same fault, since they are counted.
            detail: What is particular to this row.
        """
        self.reasons[reason] += 1
        if len(self.listed) < _KEPT:
            text = f"{reason} {detail}".strip()
            self.listed.append({"file": path.name, "row": row, "reason": text})

    def take(self, other: Rejects) -> None:
        """Add the bad rows and notes of another part of the same task."""
        self.reasons += other.reasons
        self.listed += other.listed[: _KEPT - len(self.listed)]
        self.notes += other.notes

    def check(self, path: Path, task: str) -> None:
        """Refuse the task when there are more bad rows than the limit.

        Raises:
            InputError: There are; the first few are named.
        """
        if self.limit is None or self.count <= self.limit:
            return
        shown = "\n".join(f"  {r['file']}: row {r['row']}: {r['reason']}" for r in self.listed[:5])
        more = f"\n  and {self.count - 5:,} more" if self.count > 5 else ""
        raise InputError(
            f"{self.count:,} bad rows in task {task!r}, {self.limit:,} allowed:\n{shown}{more}",
            where=path.parent,
            fix=f"correct them, or leave them out with `max_bad_rows: {self.count}`",
        )

    def record(self) -> dict[str, object]:
        """What the manifest keeps."""
        return {
            "count": self.count,
            "reasons": dict(sorted(self.reasons.items())),
            "rows": self.listed,
            "notes": self.notes,
        }
