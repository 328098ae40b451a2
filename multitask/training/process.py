"""A launch: its processes, its log, and the signals that ask us to end it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from multitask.training.progress import STACKS

RUN_VARIABLE = "MULTITASK_RUN"

_LAUNCH = "MULTITASK_LAUNCH"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_END_SECONDS = 10.0
_KILL_SECONDS = 30.0
# For the stacks to pass through the pipes of the launcher.
_STACK_SECONDS = 2.0
# A compilation holds its lock open; between making a lock and holding it lies no such time.
_STALE_SECONDS = 600.0


class Interrupts:
    """Counts the signals that ask to stop, while in the block: a wish, not an exception somewhere.

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

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


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
        """Start a command of absolute paths in ``folder``; append what it writes to ``log``."""
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

    def show_stacks(self) -> list[int]:
        """Have its processes write their threads' stacks to their logs.

        Returns:
            Those that were asked; others would be ended by the signal.
        """
        processes = [p for p in processes_with(_LAUNCH, self._token) if _catches(p, STACKS)]
        _signal(processes, STACKS)
        if processes:
            time.sleep(_STACK_SECONDS)
        return processes

    def end(self) -> list[Stuck]:
        """End all its processes: ask first, then kill.

        Returns:
            Those that could not be ended.
        """
        _, stuck = end_processes(_LAUNCH, self._token)
        # Where the command itself is stuck, there is no exit code to wait for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        return stuck


class Stuck(NamedTuple):
    """A process that SIGKILL does not end, as where it waits inside a driver.

    Attributes:
        pid: Its number.
        command: What it runs.
        state: As ``/proc`` says: ``D`` is an uninterruptible wait.
    """

    pid: int
    command: str
    state: str

    def __str__(self) -> str:
        return (
            f"process {self.pid} ({self.command}) cannot be killed, state {self.state}; it keeps "
            "what it holds of its GPU until the machine is restarted"
        )


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


def remove_stale_locks(environment: Mapping[str, str]) -> list[Path]:
    """Remove locks that killed compilations of torch's extensions have left on this machine.

    Whoever needs the extension, such as DeepSpeed's Adam of offloaded parameters, would wait for
    ever for such a lock to go (``torch/utils/file_baton.py``, ``wait``).

    Args:
        environment: Of the processes that will be started.

    Returns:
        What was removed: locks older than ten minutes that no process holds open.
    """
    import psutil

    cache = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "~"), ".cache")
    chosen = environment.get("TORCH_EXTENSIONS_DIR")
    root = Path(chosen or Path(cache, "torch_extensions")).expanduser()
    removed = []
    for lock in sorted(root.glob("*/lock" if chosen else "*/*/lock")):
        with contextlib.suppress(OSError):  # gone since, or not ours
            age = time.time() - lock.stat().st_mtime
            if age > _STALE_SECONDS and not any(_holds(p, lock) for p in psutil.process_iter()):
                lock.unlink()
                removed.append(lock)
    return removed


def _holds(process: Any, path: Path) -> bool:
    """Whether a process, as far as it may be looked at, has a file open."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return str(path.resolve()) in {file.path for file in process.open_files()}
    return False


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


def end_processes(
    variable: str,
    value: str,
    *,
    patience: float = _END_SECONDS,
    kill_patience: float = _KILL_SECONDS,
) -> tuple[list[int], list[Stuck]]:
    """End the processes that a variable names: ask with SIGTERM, kill what is left.

    Args:
        variable: The variable's name.
        value: Its value.
        patience: Seconds between asking and killing; 0 kills without asking.
        kill_patience: Seconds after which a process that was killed counts as stuck.

    Returns:
        The processes that were there, and those that are still there.
    """
    first = processes = processes_with(variable, value)
    if patience:
        _signal(processes, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while processes and time.monotonic() < deadline:
        time.sleep(0.1)
        processes = processes_with(variable, value)
    deadline = time.monotonic() + kill_patience
    while processes and time.monotonic() < deadline:
        _signal(processes, signal.SIGKILL)
        time.sleep(0.1)
        processes = processes_with(variable, value)
    return first, [_stuck(process) for process in processes]


def _stuck(process: int) -> Stuck:
    command, state = "?", "?"
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        command = b" ".join(words).decode("utf-8", "replace").strip()[:120] or "?"
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[-1].split()[0]
    return Stuck(process, command, state)


def _catches(process: int, number: signal.Signals) -> bool:
    """Whether a process handles a signal itself."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        status = Path(f"/proc/{process}/status").read_text().splitlines()
        caught = next(line for line in status if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
    return False


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
