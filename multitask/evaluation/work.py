"""The work of an evaluation: blocks of rows through a model, by all processes, kept as they end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import uuid4

import orjson

from multitask.evaluation.partial import Block, Partial
from multitask.evaluation.parts import Part, Prediction, Record
from multitask.evaluation.world import World
from multitask.scoring.scorer import Scorer

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Finished:
    """A part that is done.

    Attributes:
        part: The part.
        records: One per row, in the order of the rows.
        seconds: How long it took: of processes that worked at the same time, the longest.
    """

    part: Part
    records: list[Record]
    seconds: float

    @cached_property
    def predictions(self) -> list[Prediction]:
        """The predictions, in the order of the rows."""
        return [self.part.prediction(i, record) for i, record in enumerate(self.records)]


@dataclass
class _Rate:
    """How fast a part goes, seen from the leading process."""

    progress: Progress
    since: dict[str, tuple[float, int]] = field(default_factory=dict)

    def show(self, title: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, before = self.since.setdefault(title, (now, done))
        note = ""
        if done > before and now > start:
            rate = (done - before) / (now - start)
            note = f"{rate:,.0f} queries/s" if rate >= 10 else f"{rate:.1f} queries/s"
            if done < total:
                note += f", {_duration((total - done) / rate)} left"
        self.progress(title, done, total, note)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass(frozen=True)
class Job:
    """A block that somebody has to do."""

    part: int
    number: int
    places: tuple[int, ...]


class Work:
    """All blocks of an evaluation."""

    def __init__(
        self, name: str, parts: Sequence[Part], size: int, partial: Partial, world: World
    ) -> None:
        """Divide parts into blocks.

        Args:
            name: Unique among the evaluations of this command.
            parts: What is to be done.
            size: Rows of a block.
            partial: Where blocks are kept.
            world: The processes; all make the same blocks.
        """
        self.parts = parts
        self.name = name
        self._partial = partial
        self._world = world
        self._jobs = [
            Job(i, number, places)
            for i, part in enumerate(parts)
            for number, places in enumerate(part.blocks(size))
        ]

    def do(self, scorer: Scorer, progress: Progress) -> None:
        """Do this process's share, and wait until all is done."""
        world = self._world
        pending: list[int] = orjson.loads(world.share(f"{self.name}/pending", self._pending))
        session = world.share(f"{self.name}/session", uuid4().hex.encode).decode()
        rate = _Rate(progress if world.leads else lambda *_: None)
        while (turn := world.count(f"{self.name}/turn", 1) - 1) < len(pending):
            job = self._jobs[pending[turn]]
            part = self.parts[job.part]
            told = 0

            def advance(done: int, part: Part = part, number: int = job.part) -> None:
                nonlocal told
                total = world.count(f"{self.name}/rows/{number}", done - told)
                told = done
                rate.show(part.title, total, len(part.rows))

            if world.leads:
                self._show(rate, [job.part])
            start = time.perf_counter()
            records = part.run(scorer, job.places, advance)
            block = Block(
                places=job.places,
                records=records,
                seconds=time.perf_counter() - start,
                worker=world.rank,
                session=session,
                notes=tuple(scorer.notes),
            )
            self._partial.write(job.part, job.number, block)
        touched = sorted({self._jobs[i].part for i in pending})
        world.meet(f"{self.name}/done", lambda: self._show(rate, touched))
        if world.leads:
            self._show(rate, touched)

    def _pending(self) -> bytes:
        pending = []
        for i, job in enumerate(self._jobs):
            if self._partial.read(job.part, job.number, job.places) is None:
                pending.append(i)
            else:
                self._world.count(f"{self.name}/rows/{job.part}", len(job.places))
        return orjson.dumps(pending)

    def _show(self, rate: _Rate, parts: Iterable[int]) -> None:
        for number in parts:
            part = self.parts[number]
            rate.show(part.title, self._world.count(f"{self.name}/rows/{number}"), len(part.rows))

    def finished(self) -> tuple[list[Finished], list[str]]:
        """Everything, read back; and what the scorers had to say."""
        records: list[list[Any]] = [[None] * len(part.rows) for part in self.parts]
        seconds: list[dict[str, dict[int, float]]] = [
            defaultdict(lambda: defaultdict(float)) for _ in self.parts
        ]
        notes: dict[str, None] = {}
        for job in self._jobs:
            block = self._partial.read(job.part, job.number, job.places)
            assert block is not None
            for place, record in zip(block.places, block.records, strict=True):
                records[job.part][place] = record
            seconds[job.part][block.session][block.worker] += block.seconds
            notes |= dict.fromkeys(block.notes)
        done = [
            Finished(part, found, sum(max(of.values()) for of in by_session.values()))
            for part, found, by_session in zip(self.parts, records, seconds, strict=True)
        ]
        return done, list(notes)
