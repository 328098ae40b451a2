"""Several processes that share an evaluation: who does what next, and how far all are.

Started by ``torchrun``, ``accelerate launch`` or `launch`, each process scores blocks of rows that
no other does. They need a key-value store in common (torch's) and the run directory, and no
collective operations: a slow process holds nobody up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from multitask.errors import InputError

_POLL_SECONDS = 0.05


class World:
    """The processes of an evaluation; of one alone, unless told otherwise.

    Attributes:
        rank: This process.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        """Join; ``store`` is a torch store that all have, None where there is one alone."""
        self.rank = rank
        self.size = size
        self._store = store
        self._counts: dict[str, int] = {}
        self._named = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes the results."""
        return self.rank == 0

    def name(self, what: str) -> str:
        """A name that no earlier piece of work has; the same in all processes."""
        self._named += 1
        return f"{self._named}/{what}"

    def count(self, name: str, more: int = 0) -> int:
        """Add to a number that all share, and read it."""
        if self._store is not None:
            return int(self._store.add(name, more))
        self._counts[name] = self._counts.get(name, 0) + more
        return self._counts[name]

    def share(self, name: str, make: Callable[[], bytes]) -> bytes:
        """What the leading process makes, for all; the others wait for it."""
        if self._store is None:
            return make()
        if self.leads:
            made = make()
            self._store.set(name, made)
            return made
        self._wait(lambda: bool(self._store.check([name])))
        return bytes(self._store.get(name))

    def meet(self, name: str, waiting: Callable[[], None] = lambda: None) -> None:
        """Wait until all are here; ``waiting`` is called now and then."""
        self.count(name, 1)
        self._wait(lambda: self.count(name) >= self.size, waiting)

    def _wait(self, done: Callable[[], bool], waiting: Callable[[], None] = lambda: None) -> None:
        # Polling, since the store's own waits end with an error after some minutes.
        while not done():
            waiting()
            time.sleep(_POLL_SECONDS)


_JOINED: list[World] = []


def join_world(environment: MutableMapping[str, str] = os.environ) -> World:
    """The processes that this one was started with, by the variables that torchrun sets.

    A process with GPUs gets one of them, by its local rank, before torch first looks for them.

    Raises:
        InputError: There are more processes on this machine than GPUs.
    """
    if int(environment.get("WORLD_SIZE", "1")) < 2 or "MASTER_ADDR" not in environment:
        return World()
    if not _JOINED:
        _take_gpu(environment)
        from torch.distributed import rendezvous

        store, rank, size = next(rendezvous("env://"))
        _JOINED.append(World(rank, size, store))
    return _JOINED[0]


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
