"""Start an evaluation in several processes on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO

from multitask.errors import InputError

_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 10
_GRACE_SECONDS = 3


def is_started_rank() -> bool:
    """Whether this process is one of several that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run ``multitask ARGUMENTS`` in several processes; the first one talks to the user.

    As torchrun does on one machine, but a failure is one message and keeps its exit code.

    Args:
        arguments: Command and options; the processes find out by themselves that they are many.
        processes: How many, at least 2.

    Returns:
        The exit code: 0, or that of the first process that failed. What another process than the
        first said of its failure is passed on.

    Raises:
        InputError: Fewer than 2 processes.
    """
    if processes < 2:
        raise InputError(f"{processes} processes are not several", fix="leave --processes out")
    command = [sys.executable, "-m", "multitask", *arguments]
    environment = _environment(processes)
    with tempfile.TemporaryDirectory() as folder:
        logs: list[IO[bytes]] = []
        ranks: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(processes):
                log = open(f"{folder}/{rank}", "w+b")  # noqa: SIM115, PTH123 - closed below
                logs.append(log)
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                quiet = (None, None) if rank == 0 else (subprocess.DEVNULL, log)
                ranks.append(
                    subprocess.Popen(
                        command, env=environment | own, stdout=quiet[0], stderr=quiet[1]
                    )
                )
            failed = _wait(ranks)
            if failed is None:
                return 0
            if failed > 0 and _spoke_too(ranks[0]):
                failed = 0
            if failed > 0:
                logs[failed].seek(0)
                sys.stderr.write(_message(logs[failed].read().decode(errors="replace")))
            code = ranks[failed].returncode
            return code if code > 0 else 128 - code
        finally:
            _stop(ranks)
            for opened in logs:
                opened.close()


def _environment(processes: int) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(os.environ) | {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # Processes that each take all cores slow each other down.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    return environment


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The first rank that fails; None when all have ended well."""
    while True:
        codes = [process.poll() for process in ranks]
        for rank, code in enumerate(codes):
            if code:
                return rank
        if all(code == 0 for code in codes):
            return None
        time.sleep(_POLL_SECONDS)


def _spoke_too(first: subprocess.Popen[bytes]) -> bool:
    """Whether the process that talks to the user fails by itself, commonly of the same cause."""
    try:
        return first.wait(_GRACE_SECONDS) > 0
    except subprocess.TimeoutExpired:
        return False


def _stop(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)
        for process in ranks:
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                continue


def _message(text: str) -> str:
    """The error message at the end of what a process wrote, or all of it."""
    start = text.rfind("error: ")
    return text[start:] if start >= 0 else text
