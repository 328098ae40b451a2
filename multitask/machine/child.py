"""A command of the job: started, logged, asked to stop, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence

from multitask.machine.logs import Log
from multitask.machine.protocol import ENV_API_KEY, ENV_TOKEN
from multitask.training.process import end_processes

_MARK = "MULTITASK_MACHINE_CHILD"
_TAIL = 60

# The job's commands have no business with the platform or the client; and a plain process with
# WORLD_SIZE is taken for one of a distributed training.
_HELD_BACK = (ENV_TOKEN, ENV_API_KEY, "RUNPOD_AI_API_KEY", "JUPYTER_PASSWORD", "JUPYTER_TOKEN",
              "PUBLIC_KEY", "WORLD_SIZE", "RANK", "LOCAL_RANK")  # fmt: skip


class Child:
    """A started command.

    Attributes:
        name: What it is called in the log.
        asked: Whether it was asked to stop.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Log,
        environ: Mapping[str, str],
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Start a command.

        Args:
            name: What it is called in the log.
            command: The command.
            log: Where its output goes, line by line.
            environ: The machine's environment; the machine's own secrets are held back.
            more: Further variables.
        """
        self.name, self.asked = name, False
        self._log = log
        self._mark = uuid.uuid4().hex
        self._tail: deque[str] = deque(maxlen=_TAIL)
        kept = {key: value for key, value in environ.items() if key not in _HELD_BACK}
        log.say(f"{name}: {' '.join(command)}")
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**kept, "PYTHONUNBUFFERED": "1", **(more or {}), _MARK: self._mark},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"log of {name}")
        self._reader.start()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(timeout=5.0)  # a grandchild may hold the pipe open
        return code

    def stop(self) -> None:
        """Ask it once to save and stop."""
        if not self.asked and self._process.poll() is None:
            self.asked = True
            self._log.say(f"asking {self.name} to stop")
            os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything it has started."""
        end_processes(_MARK, self._mark)
        self._process.wait()

    def error(self) -> str:
        """The error message at the end of its output, or its last lines."""
        lines = list(self._tail)
        starts = [n for n, line in enumerate(lines) if line.startswith("error: ")]
        found = lines[starts[-1] :] if starts else lines[-5:]
        return "\n".join(found).removeprefix("error: ")[:4000]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip("\r\n")
            self._tail.append(self._log.clean(line))
            self._log.write(line)
