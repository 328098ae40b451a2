"""A launch: its processes, its log and the plugin's events."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Event = dict[str, Any]

RUN_VARIABLE = "MULTITASK_RUN"

_LAUNCH = "MULTITASK_LAUNCH"
_END_SECONDS = 10.0


class Launch:
    """A started command with everything it starts in turn.

    Processes are found by a variable of their environment, because torch's agent puts each rank
    in a session of its own: signals to a process group would miss them, and so would a parent's
    death.

    Attributes:
        log: What all of them write.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path
    ) -> None:
        """Start a command.

        Args:
            command: The command; its paths are absolute.
            environment: Of it and all that it starts.
            log: What its output is appended to.
            folder: Where it is started: what it writes by a relative path lands there.
        """
        self.log = log
        self._token = uuid.uuid4().hex
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write((" ".join(command) + "\n").encode())
            file.flush()
            # A session of its own, so that a Ctrl-C reaches us alone.
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**environment, _LAUNCH: self._token},
                cwd=folder,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """The exit code once the command has ended, negative for a signal; None before."""
        return self._process.poll()

    def end(self) -> None:
        """End all its processes: ask first, then kill."""
        end_processes(_LAUNCH, self._token)
        self._process.wait()


class EventFollower:
    """Reads the lines that are appended to an events file after its creation.

    Attributes:
        seen: Names of the events so far.
        step: The last optimizer step that was reported; 0 before the first.
        max_steps: Steps in all; 0 before training starts.
    """

    def __init__(self, path: Path, on_event: Callable[[Event], None]) -> None:
        """Follow ``path``, which need not exist yet; lines already in it are skipped."""
        self.path = path
        self.on_event = on_event
        self.seen: set[str] = set()
        self.step = 0
        self.max_steps = 0
        self._position = path.stat().st_size if path.exists() else 0

    def poll(self) -> None:
        """Pass on what is new."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written; read it the next time
                self._position += len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # half a line of a process that was killed
                self.seen.add(event["event"])
                self.step, self.max_steps = event["step"], event["max_steps"]
                self.on_event(event)


class LogWatcher:
    """Looks for words in a log as it grows.

    Attributes:
        found: Words that have appeared.
    """

    def __init__(self, path: Path, words: Sequence[str]) -> None:
        """Look for ``words`` in what is appended to ``path`` from now on."""
        self.path = path
        self.found: set[str] = set()
        self._words = {word: word.encode() for word in words}
        self._overlap = max(len(word) for word in self._words.values())
        self._position = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def poll(self) -> None:
        """Read what is new."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._position)
            new = file.read()
        self._position += len(new)
        text = self._rest + new
        self.found |= {word for word, sought in self._words.items() if sought in text}
        self._rest = text[-self._overlap :]


def processes_with(variable: str, value: str) -> list[int]:
    """Processes of ours whose environment has a variable of a value; Linux alone tells."""
    sought = f"{variable}={value}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            # Others' processes may not be read, and any may have ended since.
            with contextlib.suppress(OSError):
                if sought in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def end_processes(variable: str, value: str, *, patience: float = _END_SECONDS) -> list[int]:
    """End the processes that a variable names: ask with SIGTERM, kill what is left.

    Args:
        variable: The variable's name.
        value: Its value.
        patience: Seconds between asking and killing.

    Returns:
        The processes that were there.
    """
    first = processes = processes_with(variable, value)
    _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while processes and time.monotonic() < deadline:
        time.sleep(0.1)
        processes = processes_with(variable, value)
    while processes:
        _signal(processes, signal.SIGKILL)
        time.sleep(0.1)
        processes = processes_with(variable, value)
    return first


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
