"""What the nodes of a training tell each other through the run directory.

A static rendezvous does not tell peers of a failure, so the supervisors agree on numbered attempts
with small files in ``RUN/attempts``, each written by one node alone and renamed into place:

- ``N.json``: attempt N and the checkpoint that it starts from; by node 0.
- ``N.node-K.json``: how attempt N stands on node K; by node K.
- ``N.node-K.plugin``: the plugin is loaded on node K; by the plugin.
- ``N.verdict.json``: how attempt N ended for all; by node 0.
- ``N.stop``: save, then stop; by whoever was told to.
- ``node-K.facts.json``: what node K found on itself; by node K, before its first sign of life.
- ``node-K.alive``: a count that grows while node K's supervisor lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from multitask.run import Run, write_atomic
from multitask.training.agreement import NodeFacts
from multitask.training.progress import Silence

ATTEMPT, NODE = "MULTITASK_ATTEMPT", "MULTITASK_NODE"

NodeState = Literal["running", "done", "stopped", "failed", "killed"]
Verdict = Literal["done", "stopped", "restart", "give up"]

FINAL: tuple[NodeState, ...] = ("done", "stopped", "failed", "killed")


@dataclass(frozen=True)
class Attempt:
    """One try of all nodes together.

    Attributes:
        number: 1 for the first of a run.
        resume: Name of the checkpoint folder to start from; None for the base model.
        step: Its step.
    """

    number: int
    resume: str | None
    step: int


@dataclass(frozen=True)
class NodeReport:
    """How an attempt stands on a node.

    Attributes:
        state: ``failed`` is the node's own failure, ``killed`` that of another.
        step: The last step seen.
        stepped: Whether the attempt made any step itself.
        error: The last line of the failure.
        details: A traceback or the end of the log.
        where: The log.
        cause: Whether the failure looks like a cause rather than a broken connection to a peer
            that had failed before.
        stalled: Whether it was ended because it made no progress.
    """

    state: NodeState
    step: int = 0
    stepped: bool = False
    error: str = ""
    details: str = ""
    where: str = ""
    cause: bool = True
    stalled: bool = False


@dataclass(frozen=True)
class Ruling:
    """Node 0's word on an attempt that ended.

    Attributes:
        verdict: What follows.
        message: For people.
    """

    verdict: Verdict
    message: str = ""


class Attempts:
    """The files of a run's attempts.

    Attributes:
        folder: ``RUN/attempts``.
    """

    def __init__(self, run: Run) -> None:
        """Use a run's folder."""
        self.folder = run.root / "attempts"

    def newest(self) -> Attempt | None:
        """The attempt with the highest number."""
        numbers = [int(p.stem) for p in self.folder.glob("*.json") if p.stem.isdigit()]
        content = self._read(f"{max(numbers)}.json") if numbers else None
        return None if content is None else Attempt(**content)

    def begin(self, resume: Path | None, step: int) -> Attempt:
        """Write the next attempt."""
        newest = self.newest()
        number = 1 if newest is None else newest.number + 1
        attempt = Attempt(number, None if resume is None else resume.name, step)
        self._write(f"{number}.json", asdict(attempt))
        return attempt

    def report(self, number: int, node: int, report: NodeReport) -> None:
        """Say how an attempt stands on a node."""
        self._write(f"{number}.node-{node}.json", asdict(report))

    def report_of(self, number: int, node: int) -> NodeReport | None:
        """How an attempt stands on a node; None before it began there."""
        content = self._read(f"{number}.node-{node}.json")
        return None if content is None else NodeReport(**content)

    def rule(self, number: int, ruling: Ruling) -> None:
        """Say how an attempt ended for all."""
        self._write(f"{number}.verdict.json", asdict(ruling))

    def ruling(self, number: int) -> Ruling | None:
        """How an attempt ended for all; None before it did."""
        content = self._read(f"{number}.verdict.json")
        return None if content is None else Ruling(**content)

    def tell_facts(self, node: int, facts: NodeFacts) -> None:
        """Say what a node found on itself."""
        self._write(f"node-{node}.facts.json", asdict(facts))

    def facts_of(self, node: int) -> NodeFacts | None:
        """What a node found on itself; None before it has looked."""
        content = self._read(f"node-{node}.facts.json")
        return None if content is None else NodeFacts(**content)

    def beat(self, node: int, count: int) -> None:
        """Show that a node's supervisor lives."""
        self._write(f"node-{node}.alive", {"pid": os.getpid(), "count": count})

    def pulse(self, node: int) -> str | None:
        """Something that changes while a node's supervisor lives."""
        content = self._read(f"node-{node}.alive")
        return None if content is None else json.dumps(content)

    def ask_to_stop(self, number: int, why: str) -> None:
        """Have all processes of an attempt save and stop at the end of the same step."""
        self._write(f"{number}.stop", {"why": why})

    def stop_asked(self, number: int) -> bool:
        """Whether an attempt was asked to stop."""
        return (self.folder / f"{number}.stop").exists()

    def plugin_loaded(self, number: int, node: int) -> bool:
        """Whether the plugin announced itself on a node."""
        return (self.folder / f"{number}.node-{node}.plugin").exists()

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomic(self.folder / name, json.dumps(content) + "\n")

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return content


def announce_plugin(run: Run) -> None:
    """Tell this node's supervisor, where there is one, that the plugin is loaded."""
    number, node = os.environ.get(ATTEMPT), os.environ.get(NODE)
    if number is not None and node is not None and os.environ.get("LOCAL_RANK", "0") == "0":
        write_atomic(Attempts(run).folder / f"{number}.node-{node}.plugin", "")


def stop_requested(run: Run) -> bool:
    """Whether the attempt that this process belongs to was asked to stop."""
    number = os.environ.get(ATTEMPT)
    return number is not None and Attempts(run).stop_asked(int(number))


class Heartbeat:
    """Shows, from a thread of its own, that this node's supervisor lives."""

    def __init__(self, attempts: Attempts, node: int, seconds: float) -> None:
        """Beat for ``node`` every ``seconds``."""
        self._attempts, self._node, self._seconds = attempts, node, seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def _beat(self) -> None:
        count = time.time_ns()  # so that a restarted supervisor never repeats itself
        while True:
            # A full disk is the launch's to report; missing a beat says enough.
            with contextlib.suppress(OSError):
                self._attempts.beat(self._node, count)
            count += 1
            if self._end.wait(self._seconds):
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        *_: object,
    ) -> None:
        self._end.set()
        self._thread.join()


class Pulses:
    """Watches the other nodes. Only changes count, never times of another machine's clock."""

    def __init__(self, attempts: Attempts, nodes: list[int], dead: float) -> None:
        """Watch ``nodes``; one that does not change for ``dead`` seconds is dead."""
        self._attempts, self._dead = attempts, dead
        self._silences = {node: Silence(attempts.pulse(node)) for node in nodes}

    def silent(self, node: int) -> float:
        """Seconds since a node's last sign of life, or since watching began."""
        return self._silences[node].seconds(self._attempts.pulse(node))

    def dead(self) -> list[int]:
        """The nodes that are silent for too long."""
        return [node for node in self._silences if self.silent(node) >= self._dead]

    def missing(self) -> list[int]:
        """The nodes that have not shown themselves, or are silent for too long."""
        dead = self.dead()
        return [n for n, silence in self._silences.items() if n in dead or not silence.broken]
