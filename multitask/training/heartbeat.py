"""Signs of life of the nodes' supervisors."""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType

from multitask.training.attempts import Attempts


class Heartbeat:
    """Shows, from a thread of its own, that this node's supervisor lives."""

    def __init__(self, attempts: Attempts, node: int, seconds: float) -> None:
        """Beat for ``node`` every ``seconds``."""
        self._attempts, self._node, self._seconds = attempts, node, seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def _beat(self) -> None:
        count = time.time_ns()  # so that a restarted supervisor never repeats itself
        while True:
            # A full disk is the launch's to report; missing a beat says enough.
            with contextlib.suppress(OSError):
                self._attempts.beat(self._node, count)
            count += 1
            if self._end.wait(self._seconds):
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()


class Pulses:
    """Watches the other nodes. Only changes count, never times of another machine's clock."""

    def __init__(self, attempts: Attempts, nodes: list[int], dead: float) -> None:
        """Watch ``nodes``; one that does not change for ``dead`` seconds is dead."""
        self._attempts, self._dead = attempts, dead
        self._last = {node: attempts.pulse(node) for node in nodes}
        self._changed = dict.fromkeys(nodes, time.monotonic())
        self._seen: set[int] = set()

    def silent(self, node: int) -> float:
        """Seconds since a node's last sign of life, or since watching began."""
        pulse = self._attempts.pulse(node)
        if pulse != self._last[node]:
            self._last[node], self._changed[node] = pulse, time.monotonic()
            self._seen.add(node)
        return time.monotonic() - self._changed[node]

    def lives(self, node: int) -> bool:
        """Whether a node has shown itself, and not too long ago."""
        return self.silent(node) < self._dead and node in self._seen

    def dead(self) -> list[int]:
        """The nodes that are silent for too long."""
        return [node for node in self._last if self.silent(node) >= self._dead]

    def missing(self) -> list[int]:
        """The nodes that have not shown themselves, or are silent for too long."""
        return [node for node in self._last if not self.lives(node)]
