"""The job's events and its state, kept on the volume so that a restarted machine goes on."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from multitask.machine.protocol import FINAL_PHASES, MAX_EVENTS, Event, EventKind, Phase
from multitask.run import write_atomic


class Journal:
    """The job's events: appended by the job, read by its clients, from any thread."""

    def __init__(self, path: Path) -> None:
        """Go on with the events in ``path``, which need not exist yet."""
        self._path = path
        self._changed = threading.Condition()
        self._events: list[Event] = []
        if path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    self._events.append(json.loads(line))
                except ValueError:
                    continue  # half a line of a machine that was killed

    def __len__(self) -> int:
        return len(self._events)

    def add(self, kind: EventKind, **fields: Any) -> None:
        """Append an event of this moment."""
        event: Any = {"time": round(time.time(), 3), "kind": kind, **fields}
        with self._changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(json.dumps(event).encode() + b"\n")
            self._events.append(event)
            self._changed.notify_all()

    def read(self, start: int, wait: float = 0.0) -> list[Event]:
        """Events from number ``start`` on; where there are none, wait so many seconds for one."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > start, timeout=wait)
            return self._events[start : start + MAX_EVENTS]


@dataclass(frozen=True)
class JobState:
    """Where a job stands.

    Attributes:
        bundle: Hash of its bundle.
        phase: Its phase.
        ended_at: Unix time at which a final phase began.
        error: Why it failed or was stopped.
        exit_code: Of the command that failed; 0 when done.
        step: Optimizer step of the training.
        steps: Its last one.
        epoch: Epochs trained.
        loss: The last training loss.
        tasks: The newest metrics of each task.
        attempt: Number of the launch.
        rental: Tells the machines that were rented for it from those before.
    """

    bundle: str
    phase: Phase = "waiting"
    ended_at: float | None = None
    error: str | None = None
    exit_code: int | None = None
    step: int = 0
    steps: int = 0
    epoch: float | None = None
    loss: float | None = None
    tasks: dict[str, dict[str, float]] | None = None
    attempt: int = 0
    rental: str = ""

    @property
    def final(self) -> bool:
        """Whether the job is over."""
        return self.phase in FINAL_PHASES


class StateFile:
    """A job's state, written whenever its phase changes.

    Attributes:
        now: The state.
    """

    def __init__(self, path: Path, bundle: str) -> None:
        """Go on with the state in ``path``, or begin a job."""
        self._path = path
        self.now = JobState(bundle)
        if path.exists():
            self.now = JobState(**json.loads(path.read_text(encoding="utf-8")))

    def set(self, **changes: Any) -> None:
        """Change some keys; written when the phase is among them."""
        self.now = replace(self.now, **changes)
        if "phase" in changes:
            write_atomic(self._path, json.dumps(asdict(self.now)) + "\n")
