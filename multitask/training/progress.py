"""How far a training is, told on its own machine, and a watchdog that notices when it stands still.

Each node's first process writes a few bytes to a file on the machine's own disk after every step,
where a run directory may be a network volume that all nodes share. Its supervisor reads them. For
all to see, the training's first process appends events to a log of the run, one JSON object a line.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from multitask.training.supervisor import Options

VARIABLE = "MULTITASK_PROGRESS"
"""The environment variable that names the file."""

STACKS = signal.SIGUSR1
"""The signal at which a training process writes the stacks of its threads to its log."""

Event = dict[str, Any]
Phase = Literal["starting", "training", "pausing", "ended"]

_LENGTH = 96
_STEPS_KEPT = 101
# A supervisor that did not look for so long was itself held up, and knows nothing of that time.
_ASLEEP = 30.0


class Progress(NamedTuple):
    """What a training says of itself.

    Attributes:
        step: Optimizer steps done.
        phase: ``starting`` until the first step is done, ``pausing`` while it evaluates or saves,
            ``ended`` after the last step.
        beats: Grows each time.
    """

    step: int
    phase: Phase
    beats: int


class ProgressFile:
    """Tells this machine's supervisor how far the training is."""

    def __init__(self, path: Path) -> None:
        """Write to ``path``."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._beats = 0

    def tell(self, step: int, phase: Phase) -> None:
        """Overwrite what was told before; a reader sees the one or the other."""
        self._beats += 1
        line = json.dumps(Progress(step, phase, self._beats)).ljust(_LENGTH - 1) + "\n"
        os.pwrite(self._file, line.encode(), 0)


def own_progress_file() -> ProgressFile | None:
    """The file of this process; None where it is not its machine's first, or nobody reads it."""
    path = os.environ.get(VARIABLE)
    if path is None or os.environ.get("LOCAL_RANK", "0") != "0":
        return None
    try:
        return ProgressFile(Path(path))
    except OSError:
        return None  # the watchdog sees no step then, and leaves the training alone


def read_progress(path: Path) -> Progress | None:
    """What a training last said; None before it said anything."""
    try:
        return Progress(*json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def show_stacks_on_signal() -> None:
    """Let this process, and those that it forks, write all stacks to its log when asked."""
    try:
        faulthandler.register(STACKS, file=sys.stderr.fileno(), all_threads=True)
    except (OSError, ValueError, AttributeError):
        return  # standard error is no file here, so there is no log either


def write_event(path: Path, event: str, state: Any, **more: Any) -> None:
    """Append an event of a trainer's state to a file, from the first process only."""
    if state.is_world_process_zero:
        append_event(path, event, state, **more)


def append_event(path: Path, event: str, state: Any, **more: Any) -> None:
    """Append an event to a file, from any process."""
    line = {
        "event": event,
        "time": time.time(),
        "step": state.global_step,
        "max_steps": state.max_steps,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        # A process that was killed while it wrote leaves half a line.
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(line, default=str).encode() + b"\n")


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


class Silence:
    """How long something has not changed, by this machine's clock.

    Attributes:
        value: What it is.
        broken: Whether it has changed since watching began.
    """

    def __init__(self, value: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """Watch from now on."""
        self.value, self.broken = value, False
        self._clock, self._since = clock, clock()

    def seconds(self, value: Any) -> float:
        """Seconds since the last change; 0 where this is one."""
        if value != self.value:
            self.value, self.broken, self._since = value, True, self._clock()
        return self._clock() - self._since

    def forget(self, seconds: float) -> None:
        """Leave out a time of which nothing is known."""
        self._since += seconds


class Watchdog:
    """Notices that a training has made no progress for too long.

    Too long is ten times the median step, at least ``options.stall`` seconds. While it evaluates
    or saves it may take ``options.pause``, or three times as long as it took before. Nothing is
    judged before the first step, which compiles and connects, nor after the last one.

    Attributes:
        progress: What the training last said.
    """

    def __init__(
        self, path: Path, options: Options, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Watch what is written to ``path``."""
        self.progress: Progress | None = None
        self._path, self._options, self._clock = path, options, clock
        self._steps: deque[float] = deque(maxlen=_STEPS_KEPT)
        self._longest_pause = 0.0
        self._silence, self._looked = Silence(None, clock), clock()

    def look(self) -> str | None:
        """Why the training has to be ended; None where all is well."""
        asleep, self._looked = self._clock() - self._looked, self._clock()
        if asleep > _ASLEEP:
            self._silence.forget(asleep)
        found = read_progress(self._path) or self.progress
        silent = self._silence.seconds(self.progress)
        if found is not None and found != self.progress:
            self._learn(found, silent)
            self.progress, silent = found, self._silence.seconds(found)
        return self._judge(silent)

    def _learn(self, found: Progress, seconds: float) -> None:
        before = self.progress
        if before is None:
            return
        if before.phase == "pausing":
            self._longest_pause = max(self._longest_pause, seconds)
        elif found.step > before.step:
            self._steps.append(seconds / (found.step - before.step))

    def _judge(self, silent: float) -> str | None:
        found = self.progress
        if found is None or found.phase in ("starting", "ended"):
            return None
        limit = max(self._options.stall, 10 * median(self._steps or [0.0]))
        doing = ""
        if found.phase == "pausing":
            limit = max(limit, self._options.pause, 3 * self._longest_pause)
            doing = ", in a save or an evaluation"
        if silent <= limit:
            return None
        return f"no progress for {silent:.0f} s after step {found.step}{doing}"
