"""SIGTERM and SIGINT as a wish that is looked at, not an exception somewhere."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Counts the signals that ask to stop, while in the block.

    Attributes:
        count: How many came.
        name: The first one's name.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.count = 0
        self.name = ""
        self._before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.count += 1
        self.name = self.name or signal.Signals(number).name

    def __enter__(self) -> Interrupts:
        # Python lets the main thread alone set handlers; elsewhere the program's own stay.
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
