"""Commands and trainings as forks of one process per test worker, which has imported everything.

Importing torch, transformers and Axolotl takes longer than what a test then does. What runs here
is the real command in a process of its own; only its imports are done before.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Self

from multitask.rehearsal import forkclient
from multitask.rehearsal.forkserver import ROOM, ROOM_VARIABLE

SUPPORT = Path(__file__).parent / "support"
_ROOT = Path(__file__).parents[1]
_BASE = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "AXOLOTL_DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def warm_environment(**more: str) -> dict[str, str]:
    """An environment in which a launch of one process is a fork of the warm one."""
    return _plain() | {"WARM": f"{forkclient.__file__}{os.pathsep}{_server()}"} | more


def run_warm(
    *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run what the warm process forks: ``"multitask", "train", RUN``; see ``warm_server.py``."""
    return subprocess.run(
        [sys.executable, "-I", "-S", forkclient.__file__, _server(), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=warm_environment() if environment is None else environment,
    )


def multitask(
    *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of multitask; test-side plugins can be imported in it.

    Args:
        arguments: Of the command line.
        cwd: Where.
        environment: Variables to add.
    """
    more = dict(environment or {})
    return run_warm("multitask", *arguments, cwd=cwd, environment=warm_environment(**more))


class WarmForks:
    """In the place of a rehearsal's own fork server: this worker's."""

    def __init__(self, _log: Path) -> None:
        self.address = Path(_server())

    def wait(self) -> None:
        """It has imported everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """It goes on."""


def _plain() -> dict[str, str]:
    path = [str(SUPPORT / "warm"), str(SUPPORT), str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return dict(os.environ) | _BASE | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


@cache
def _server() -> str:
    """The address of this worker's warm process, which ends with the worker."""
    # A short path: the name of a socket holds 107 bytes.
    folder = tempfile.TemporaryDirectory(prefix="multitask-warm-")
    address = Path(folder.name) / "forks"
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "warm_server.py"), str(address)],
        stdin=subprocess.PIPE,  # its end tells the server that we are gone
        stdout=subprocess.PIPE,
        env=_plain() | {ROOM_VARIABLE: "." * ROOM},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", "the warm process could not start"
    atexit.register(folder.cleanup)
    atexit.register(process.kill)
    return str(address)
