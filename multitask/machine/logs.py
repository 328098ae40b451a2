"""The machine's log: everything it and its commands say, without secrets."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from multitask.machine.settings import SECRETS

_SHORTEST_SECRET = 6


class Log:
    """Writes lines to a file on the volume and to standard output, from any thread.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        """Write to ``path``; the values of secrets in ``environ`` are replaced."""
        self.path = path
        values = {environ.get(name, "") for name in SECRETS}
        self._secrets = sorted(
            (v for v in values if len(v) >= _SHORTEST_SECRET), key=len, reverse=True
        )
        self._lock = threading.Lock()

    def say(self, message: str) -> None:
        """Log a message of the machine's own."""
        self.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}] {message}")

    def clean(self, line: str) -> str:
        """A line without secrets."""
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line

    def write(self, line: str) -> None:
        """Log a line of a command's output."""
        line = self.clean(line)
        with self._lock:
            print(line, flush=True, file=sys.stdout)  # noqa: T201  # the platform's log
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:  # a full volume must not stop the timers
                print(f"the log cannot be written: {error}", file=sys.stderr)  # noqa: T201

    def read(self, start: int, most: int) -> tuple[bytes, int]:
        """Bytes from ``start`` on, cut at the end of a line, and the byte to ask for next."""
        if not self.path.exists():
            return b"", start
        with self.path.open("rb") as file:
            file.seek(start)
            data = file.read(most)
        if len(data) == most and b"\n" in data:
            data = data[: data.rindex(b"\n") + 1]
        return data, start + len(data)
