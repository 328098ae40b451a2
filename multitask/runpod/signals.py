"""Ctrl-C and its like as a wish that every wait looks at."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SLICE = 0.1


class Signals:
    """Counts the signals that ask to stop; nothing is interrupted by them but waiting.

    A request that rents a machine must never be broken off between question and answer.

    Attributes:
        count: How many came.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.count += 1

    def pause(self, seconds: float) -> None:
        """Wait, but no longer once a further signal comes."""
        before, end = self.count, time.monotonic() + seconds
        while self.count == before and (left := end - time.monotonic()) > 0:
            time.sleep(min(_SLICE, left))

    @contextmanager
    def off(self) -> Iterator[None]:
        """Let signals do what they did before, for the block: while somebody is asked."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        try:
            yield
        finally:
            for number in self._before:
                signal.signal(number, self._note)

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
