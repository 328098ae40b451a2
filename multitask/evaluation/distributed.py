"""Several processes that share an evaluation: started here, by torchrun or by accelerate.

Each takes a fixed share of the work. All they tell each other is that the first one is ready: with
its files, before the others begin, and with the results, at the end.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from multitask.errors import InputError, MultitaskError

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 10
_GRACE_SECONDS = 3


class Ranks:
    """The processes of an evaluation; one alone, unless told otherwise.

    Attributes:
        rank: This process.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        """Join; ``store`` is the torch store at which several meet."""
        self.rank = rank
        self.size = size
        self._store = store
        self._turn = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes the results."""
        return self.rank == 0

    def first(self, do: Callable[[], object]) -> None:
        """Let the first process do something for all; the others wait until it is done."""
        if self.leads:
            do()
        if self._store is None:
            return
        self._turn += 1
        done, seen = (f"multitask/{self._turn}/{what}" for what in ("done", "seen"))
        if self.leads:
            self._store.set(done, b"done")
            # The store ends with this process, so all must have seen it.
            _wait(lambda: self._store.add(seen, 0) == self.size - 1)
        else:
            _wait(lambda: self._store.check([done]))
            self._store.add(seen, 1)


def _wait(until: Callable[[], bool]) -> None:
    # Polling: a wait of the store's own ends with an error after some minutes, and takes no signal.
    while not until():
        time.sleep(_POLL_SECONDS)


_JOINED: list[Ranks] = []


def join_ranks(environment: MutableMapping[str, str] = os.environ) -> Ranks:
    """The processes that this one was started with, by the variables that torchrun sets.

    A process with GPUs gets its share of them, by its local rank, before torch looks for them.

    Raises:
        InputError: There are more processes on this machine than GPUs.
    """
    if not is_started_rank(environment) or "MASTER_ADDR" not in environment:
        return Ranks()
    if not _JOINED:
        _take_gpu(environment)
        from torch.distributed import rendezvous

        store, rank, size = next(rendezvous("env://"))
        _JOINED.append(Ranks(rank, size, store))
    return _JOINED[0]


def is_started_rank(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that were started together."""
    return int(environment.get("WORLD_SIZE", "1")) > 1


def _take_gpu(environment: MutableMapping[str, str]) -> None:
    """Leave this process its share of the machine's GPUs: several, for a model larger than one."""
    import torch

    rank, count = int(environment.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if not count:
        return
    if rank >= count:
        raise InputError(
            f"{rank + 1} processes on this machine, but {count} GPUs", fix=f"--processes {count}"
        )
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(count)]
    share = max(1, count // int(environment.get("LOCAL_WORLD_SIZE", count)))
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices[rank * share : (rank + 1) * share])


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run ``multitask ARGUMENTS`` in several processes of this machine.

    As torchrun does, but a failure is one message and keeps its exit code. The first process talks
    to the user; what another says of its failure is passed on.

    Args:
        arguments: Command and options; the processes find out by themselves that they are many.
        processes: How many, at least 2.

    Returns:
        The exit code: 0, or that of the first process that failed.

    Raises:
        MultitaskError: A process was killed.
    """
    command = [sys.executable, "-m", "multitask", *arguments]
    environment = _environment(processes)
    with ExitStack() as stack:
        ranks: list[subprocess.Popen[bytes]] = []
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        stack.enter_context(_stopping(ranks))
        for rank, log in enumerate(logs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            out, err = (subprocess.DEVNULL, log) if rank else (None, None)
            ranks.append(subprocess.Popen(command, env=environment | own, stdout=out, stderr=err))
        failed = _first_failure(ranks)
        if failed is None:
            return 0
        if failed > 0 and _fails_too(ranks[0]):
            failed = 0
        code = ranks[failed].returncode
        if code < 0:
            raise MultitaskError(
                f"process {failed + 1} of {processes} was killed ({signal.Signals(-code).name})",
                fix="start the same command again to go on where it stopped; SIGKILL is commonly "
                "the system's, for want of memory: use fewer --processes",
            )
        if failed > 0:
            logs[failed].seek(0)
            text = logs[failed].read().decode(errors="replace")
            # The message at the end of what it wrote, or all of it.
            sys.stderr.write(text[max(0, text.rfind("error: ")) :])
        return code


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


def _first_failure(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The first rank that fails; None when all have ended well."""
    while True:
        codes = [process.poll() for process in ranks]
        if failed := [rank for rank, code in enumerate(codes) if code]:
            return failed[0]
        if None not in codes:
            return None
        time.sleep(_POLL_SECONDS)


def _fails_too(first: subprocess.Popen[bytes]) -> bool:
    """Whether the process that talks to the user fails by itself, commonly of the same cause."""
    try:
        return first.wait(_GRACE_SECONDS) > 0
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def _stopping(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Stop those that still run when the block ends."""
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in ranks:
                if process.poll() is None:
                    process.send_signal(number)
            for process in ranks:
                try:
                    process.wait(_PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
