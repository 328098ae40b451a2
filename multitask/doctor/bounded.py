"""Looking at a machine that may be broken: nothing here waits longer than it was told to.

A thread that hangs, in a name lookup or on a dead network disk, cannot be ended; it is left
behind as a daemon, which does not keep the program from ending. ``concurrent.futures`` would wait
for its threads at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from multitask.errors import MultitaskError

T = TypeVar("T")

# For a process to vanish after it was killed; one that hangs in a driver never does.
_GRACE = 0.5


class NoAnswerError(MultitaskError):
    """Something did not answer in its time."""


class Pending(Generic[T]):
    """Work in a thread of its own, begun at once and asked for later."""

    def __init__(self, work: Callable[[], T], seconds: float) -> None:
        """Begin.

        Args:
            work: What is done.
            seconds: How long it may take, from now.
        """
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        self._thread.start()

    def _work(self, work: Callable[[], T]) -> None:
        try:
            self._result.append(work())
        except BaseException as error:  # noqa: BLE001  raised again where it is asked for
            self._error = error

    def get(self) -> T:
        """Wait for the result.

        Raises:
            NoAnswerError: It takes too long.
            BaseException: What the work raised.
        """
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._error is not None:
            raise self._error
        if not self._result:
            raise NoAnswerError(f"no answer in {self._seconds:g} s")
        return self._result[0]


@dataclass(frozen=True)
class Finished:
    """A program that ended.

    Attributes:
        code: Its exit code.
        out: What it printed.
        err: What it printed as errors.
    """

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line that says something."""
        lines = [line.strip() for line in f"{self.out}\n{self.err}".splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


def run_program(
    command: Sequence[str],
    seconds: float,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a program to its end.

    Args:
        command: Program and arguments.
        seconds: How long it may take; it and its children are killed then.
        folder: Where it is started.
        environment: Its environment; None: this process's.

    Raises:
        NoAnswerError: It takes too long.
        OSError: It cannot be started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_GRACE)
        raise NoAnswerError(f"no answer in {seconds:g} s") from None
    return Finished(process.returncode, out, err)
