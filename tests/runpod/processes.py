"""Rented machines as processes of this one, each running the image's entrypoint."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from multitask.machine import protocol
from multitask.training.process import end_processes
from tests.runpod.fake import FakePod

_ROOT = Path(__file__).parents[2]
_MARK = "MULTITASK_TEST_MACHINE"


class ProcessMachine:
    """One pod: ``docker/entrypoint.sh`` with the pod's variables, and folders as ``/`` and volume.

    Attributes:
        port: Of its control server, on node 0.
        log: What it prints.
    """

    def __init__(self, pod: FakePod, folder: Path, meeting_port: int) -> None:
        self.pod, self.log = pod, folder / f"machine-{pod.id}.log"
        self.port: int | None = free_port() if pod.rank in (None, 0) else None
        # This machine has no GPUs: a node trains with one process.
        self._environ = pod.env | {
            protocol.ENV_VOLUME: str(folder / "volume"),
            protocol.ENV_PORT: str(self.port or free_port()),
            "PRIMARY_ADDR": "127.0.0.1",
            "PRIMARY_PORT": str(meeting_port),
            "NODE_ADDR": "127.0.0.1",
            "NUM_TRAINERS": "1",
            "WORLD_SIZE": str(pod.nodes),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(_ROOT),
            "MULTITASK_ROOT": str(folder / f"root-{pod.id}"),
            "MULTITASK_PYTHON": sys.executable,
            "MULTITASK_USER": "root",
            "MULTITASK_CRASH_SECONDS": "1",
            "PATH": os.environ["PATH"],
            _MARK: pod.id,
        }
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["bash", str(_ROOT / "docker" / "entrypoint.sh")],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
            )

    def stop(self) -> None:
        """Everything on it ends at once."""
        self._process.kill()
        self._process.wait()
        end_processes(_MARK, self.pod.id, patience=0)

    def crash(self) -> None:
        """Its container dies, and the platform starts it again."""
        self.stop()
        self._process = self._start()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
