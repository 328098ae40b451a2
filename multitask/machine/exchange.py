"""What the machines of a job tell each other through ``RUN/machine`` on the shared volume.

Each file is written by one node alone and renamed into place:

- ``order.json``: what all shall do now; by node 0.
- ``node-K.hello.json``: a number that node K drew when it came up.
- ``node-K.alive``: a count that grows while node K lives.
- ``node-K.check.json``: what node K found for a check; by node K.
- ``node-K.end.json``: how a training ended on node K; by node K.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from multitask.run import write_atomic

FOLDER = "machine"


@dataclass(frozen=True)
class Order:
    """Node 0's word to all nodes.

    Attributes:
        number: Grows with every order of a job.
        action: ``check`` yourself, ``train``, or ``end``: the machines go.
    """

    number: int
    action: Literal["check", "train", "end"]


class Exchange:
    """The files of a job.

    Attributes:
        folder: ``RUN/machine``.
    """

    def __init__(self, run_root: Path) -> None:
        """Use a run's folder."""
        self.folder = run_root / FOLDER

    def order(self) -> Order | None:
        """The newest order."""
        found = self._read("order.json")
        return None if found is None else Order(found["number"], found["action"])

    def give(self, action: Literal["check", "train", "end"]) -> Order:
        """Give the next order."""
        before = self.order()
        order = Order(1 if before is None else before.number + 1, action)
        self._write("order.json", {"number": order.number, "action": action})
        return order

    def greet(self, node: int) -> str:
        """Draw and show a number that no other volume can have; returns it."""
        nonce = secrets.token_hex(16)
        self._write(f"node-{node}.hello.json", {"nonce": nonce, "time": time.time()})
        return nonce

    def greetings(self, nodes: int) -> dict[int, str]:
        """The numbers of the nodes that are seen from here."""
        found = {node: self._read(f"node-{node}.hello.json") for node in range(nodes)}
        return {node: hello["nonce"] for node, hello in found.items() if hello is not None}

    def beat(self, node: int) -> None:
        """Show that a node lives."""
        self._write(f"node-{node}.alive", {"count": time.time_ns()})

    def pulse(self, node: int) -> int | None:
        """Something that changes while a node lives."""
        found = self._read(f"node-{node}.alive")
        return None if found is None else int(found["count"])

    def answer(self, node: int, number: int, facts: dict[str, Any]) -> None:
        """Answer an order to check."""
        self._write(f"node-{node}.check.json", {"number": number, "facts": facts})

    def answer_of(self, node: int, number: int) -> dict[str, Any] | None:
        """A node's answer to an order; None before it is there."""
        found = self._read(f"node-{node}.check.json")
        if found is None or found["number"] != number:
            return None
        facts: dict[str, Any] = found["facts"]
        return facts

    def ended(self, node: int, number: int, code: int) -> None:
        """Say how the training of an order ended."""
        self._write(f"node-{node}.end.json", {"number": number, "code": code})

    def end_of(self, node: int, number: int) -> int | None:
        """Exit code of an order's training on a node; None before it ended."""
        found = self._read(f"node-{node}.end.json")
        return None if found is None or found["number"] != number else int(found["code"])

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_atomic(self.folder / name, json.dumps(content) + "\n")

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found


class Silence:
    """Watches another node's sign of life. Only changes count, never another machine's clock."""

    def __init__(self, exchange: Exchange, node: int) -> None:
        """Watch ``node`` from now on."""
        self._exchange, self._node = exchange, node
        self._last = exchange.pulse(node)
        self._changed = time.monotonic()

    def seconds(self) -> float:
        """Seconds since the last sign of life, or since watching began."""
        pulse = self._exchange.pulse(self._node)
        if pulse != self._last:
            self._last, self._changed = pulse, time.monotonic()
        return time.monotonic() - self._changed
