"""Progress on a terminal: a bar where people watch, a line now and then where logs are kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_SECONDS = 15.0


class ProgressBar:
    """One bar that is told its task, how far it is, and a few words beside it."""

    def __init__(self, progress: Progress, console: Console, after: float) -> None:
        """Draw with ``progress`` on a terminal, or print lines to ``console``."""
        self._progress = progress
        self._console = console
        self._visible_from = time.monotonic() + after
        self._bars: dict[str, TaskID] = {}
        self._printed = float("-inf")
        self._finished: set[str] = set()

    def update(self, what: str, done: int, total: int | None, note: str = "") -> None:
        """Say that ``done`` of ``total`` units of ``what`` are finished; None: not known yet."""
        if time.monotonic() < self._visible_from:
            return
        if not self._console.is_terminal:
            now = time.monotonic()
            finished = done == total and what not in self._finished
            if finished or (done != total and now - self._printed >= _LINE_SECONDS):
                self._printed = now
                if finished:
                    self._finished.add(what)
                self._console.print(f"{what}: {done}/{total or '?'} {note}", highlight=False)
            return
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what, total=total, note="")
        self._progress.update(
            self._bars[what],
            completed=done,
            total=total,
            note=note,
        )

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(*, after: float = 0.0) -> Iterator[ProgressBar]:
    """A progress display for the block, shown when it takes longer than ``after`` seconds."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        yield ProgressBar(progress, console, after)
