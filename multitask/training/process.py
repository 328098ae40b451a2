"""Running a training process: start it, follow its events, end it cleanly."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from multitask.cluster import load_cluster
from multitask.errors import InputError, MultitaskError
from multitask.run import Run
from multitask.spec import load_spec
from multitask.training.command import launch_command, launch_environment

Event = dict[str, Any]

_POLL_SECONDS = 0.2
_STOP_SECONDS = 60


def train(run: Run, *, resume: bool = False, on_event: Callable[[Event], None]) -> Path:
    """Start a run's training and wait for its end.

    Args:
        run: A built run.
        resume: Go on from the newest checkpoint; without it, a run with checkpoints is refused.
        on_event: Called with each event of the plugin as it is written.

    Returns:
        The log of the launch.

    Raises:
        InputError: The run is not built, or has been trained already.
        MultitaskError: The training failed, or went on without the plugin.
    """
    for path in (run.axolotl, run.accelerate, run.split("train")):
        run.require(path, f"multitask build-config {run.spec} --out {run.root}")
    _require_axolotl()
    if not resume and run.model.exists() and any(run.model.iterdir()):
        raise InputError(
            "the run has been trained before",
            where=run.model,
            fix="add --resume to go on from its newest checkpoint, or build another run",
        )
    cluster = load_cluster(load_spec(run.spec).cluster)
    command = launch_command(run, cluster, launch_environment(run), resume=resume)
    run.logs.mkdir(exist_ok=True)
    log = run.logs / f"train-{datetime.now(UTC):%Y%m%d-%H%M%S}.log"
    follower = EventFollower(run.trainer_events, on_event)
    code = _run_logged(command, launch_environment(run), log, follower)
    if code != 0:
        raise MultitaskError(
            f"training failed with exit code {code}; its last lines:\n{_tail(log)}", where=log
        )
    if "start" not in follower.seen:
        raise MultitaskError(
            "Axolotl trained without multitask's plugin, so nothing of ours was in it",
            where=log,
            fix="install multitask in the environment that runs the training",
        )
    return log


def _require_axolotl() -> None:
    from multitask.runners.validate import axolotl_installed

    if not axolotl_installed():
        raise InputError(
            "Axolotl is not installed", fix="pip install 'multitask[train]' (see the README)"
        )


class EventFollower:
    """Reads the lines that are appended to an events file after its creation.

    Attributes:
        seen: Names of the events so far.
    """

    def __init__(self, path: Path, on_event: Callable[[Event], None]) -> None:
        """Follow ``path``, which need not exist yet; lines already in it are skipped."""
        self.path = path
        self.on_event = on_event
        self.seen: set[str] = set()
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
                event = json.loads(line)
                self.seen.add(event["event"])
                self.on_event(event)


def _run_logged(
    command: list[str], environment: dict[str, str], log: Path, follower: EventFollower
) -> int:
    with log.open("wb") as file:
        file.write((" ".join(command) + "\n").encode())
        file.flush()
        # A session of its own, so that a Ctrl-C reaches the trainer once, from us.
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                follower.poll()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _stop(process)
            raise
        follower.poll()
    return process.returncode


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and all it started: interrupt first, so that it can save, then kill."""
    import os

    for signal_number, patience in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, signal_number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _tail(log: Path, lines: int = 20) -> str:
    with log.open(encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, maxlen=lines)).rstrip()
