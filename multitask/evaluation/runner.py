"""Requests through a model: in blocks, divided among the processes, kept as they end.

What is done lies in ``RUN/evaluation/NAME/partial``, so that an evaluation that is interrupted goes
on where it stopped. A block is a file under its final name only once it is whole. The last digits
of a score depend on what it shares a batch with, and so on its block alone: not on the number of
processes, and not on when they were interrupted.
"""

from __future__ import annotations

import io
import shutil
import time
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from multitask.data.render import Row, gold
from multitask.errors import InputError
from multitask.evaluation.distributed import Ranks
from multitask.evaluation.requests import TaskRequests
from multitask.files import read_json
from multitask.formatting import clock
from multitask.metrics.intervals import Floats, if_repeated
from multitask.metrics.registry import Predictions
from multitask.run import write_atomic
from multitask.scoring.scorer import Scorer, Scores
from multitask.tasks import Task

Progress = Callable[[str, int, int, str], None]

FOLDER = "partial"

_STATE = "state.json"
_ARRAYS = ("log_probs", "scored", "residual_mass", "best", "dropped")
_POLL_SECONDS = 0.1


class Block(NamedTuple):
    """Rows that go to the model, and are kept, together: whose, in which file, which, what cost."""

    requests: int
    name: str
    places: tuple[int, ...]
    cost: int


@dataclass(frozen=True, eq=False)
class TaskScores:
    """What a model answers to requests.

    Attributes:
        requests: What was asked.
        scores: The answers, in the order of the rows.
        seconds: How long it took: the process that took longest.
    """

    requests: TaskRequests
    scores: Scores
    seconds: float

    @property
    def task(self) -> Task:
        """The definition that made the rows."""
        return self.requests.task

    @property
    def rows(self) -> Sequence[Row]:
        """The rows."""
        return self.requests.rows

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row."""
        return [row["id"] for row in self.rows]

    @cached_property
    def gold(self) -> list[str]:
        """The right answer to each row."""
        return [gold(row) for row in self.rows]

    @cached_property
    def predicted(self) -> list[str]:
        """The most probable label of each row, or the text that was generated."""
        if self.scores.texts:
            return list(self.scores.texts)
        return [self.task.labels[best] for best in self.scores.best.tolist()]

    @cached_property
    def log_probs(self) -> Floats:
        """Log-likelihoods of shape (rows, labels); -inf where a row does not have a label."""
        found = np.full((len(self.rows), len(self.task.labels)), -np.inf)
        found[:, : self.scores.log_probs.shape[1]] = self.scores.log_probs
        return found

    def predictions(self, *, scored: bool = True) -> Predictions:
        """The rows as metrics take them; ``scored`` with log-probabilities."""
        return Predictions(
            gold=self.gold,
            predicted=self.predicted,
            labels=self.task.labels,
            log_probs=self.log_probs if scored else None,
            # Several phrasings of one, say.
            items=if_repeated(list(map(self.task.kind.item, self.ids))),
            positive_label=self.task.positive_label,
        )


class Runner:
    """All blocks of an evaluation."""

    def __init__(
        self, directory: Path, requests: Sequence[TaskRequests], size: int, ranks: Ranks
    ) -> None:
        """Divide requests, the same in all processes, into blocks of so many rows."""
        self.folder = directory / FOLDER
        self._requests = requests
        self._ranks = ranks
        self._done: set[str] = set()
        self._since: dict[int, tuple[float, int]] = {}
        self._blocks = {
            name: Block(i, name, places, sum(map(one.cost, places)))
            for i, one in enumerate(requests)
            for number, places in enumerate(one.blocks(size))
            for name in [f"{i:03d}-{number:06d}.npz"]
        }

    def open(self, key: Mapping[str, str], *, restart: bool = False) -> int:
        """Begin, or continue what was interrupted; by the first process alone.

        Returns:
            How many blocks are done.

        Raises:
            InputError: What is there has another key: of the model, the data and the settings.
        """
        if restart:
            self.remove()
        path = self.folder / _STATE
        if path.is_file() and self.begun:
            found = read_json(path).get("key", {})
            differs = [name for name in key if found.get(name) != key[name]]
            if differs:
                raise InputError(
                    f"an unfinished evaluation is there, with another {' and '.join(differs)}",
                    where=self.folder,
                    fix="start it as it was to finish it, choose another --name, or add "
                    "--restart to throw it away",
                )
        pending = [name for name in self._blocks if self._read(name) is None]
        for name in pending:
            (self.folder / name).unlink(missing_ok=True)  # torn
        write_atomic(path, orjson.dumps({"key": dict(key), "pending": pending}))
        return len(self._blocks) - len(pending)

    @property
    def begun(self) -> bool:
        """Whether a block is there."""
        return any(self.folder.glob("*.npz"))

    def remove(self) -> None:
        """Throw everything away, and the evaluation's directory if nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        parent = self.folder.parent
        for directory in (parent, parent.parent):
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()

    def run(self, scorer: Scorer, progress: Progress) -> None:
        """Do this process's share; the first one waits until all is done, and shows progress."""
        names = read_json(self.folder / _STATE)["pending"]
        pending = [self._blocks[name] for name in names]
        if not self._ranks.leads:
            progress = lambda *_: None  # noqa: E731
        for i in shares([block.cost for block in pending], self._ranks.size)[self._ranks.rank]:
            block = pending[i]
            advance = self._meter(block.requests, progress)
            start = time.perf_counter()
            scores = self._requests[block.requests].run(scorer, block.places, advance)
            about = {
                "places": block.places,
                "seconds": time.perf_counter() - start,
                "rank": self._ranks.rank,
                "notes": scorer.notes,
                "texts": scores.texts,
            }
            self._write(block, scores, about)
        touched = sorted({block.requests for block in pending})
        while self._ranks.leads:
            for number in touched:
                self._meter(number, progress)
            if self._done.issuperset(block.name for block in pending):
                break
            time.sleep(_POLL_SECONDS)

    def _meter(self, number: int, progress: Progress) -> Callable[[int], None]:
        """What is told how many rows of a block of these requests are done."""
        before, one = self._rows_done(number), self._requests[number]

        def advance(more: int) -> None:
            now, done, total = time.monotonic(), before + more, len(one.rows)
            start, first = self._since.setdefault(number, (now, done))
            note = ""
            if done > first and now > start:
                rate = (done - first) / (now - start)
                note = f"{rate:,.0f} queries/s" if rate >= 10 else f"{rate:.1f} queries/s"
                if done < total:
                    note += f", {clock((total - done) / rate)} left"
            progress(one.title, done, total, note)

        advance(0)
        return advance

    def _rows_done(self, number: int) -> int:
        """Rows of requests that all processes have finished."""
        blocks = [block for block in self._blocks.values() if block.requests == number]
        for block in blocks:
            if block.name not in self._done and (self.folder / block.name).is_file():
                self._done.add(block.name)
        return sum(len(block.places) for block in blocks if block.name in self._done)

    def scores(self) -> tuple[list[TaskScores], list[str]]:
        """Everything, read back once all is done; and what the scorers had to say."""
        parts: list[list[Scores]] = [[] for _ in self._requests]
        places: list[list[int]] = [[] for _ in self._requests]
        seconds: list[dict[int, float]] = [defaultdict(float) for _ in self._requests]
        notes: dict[str, None] = {}
        for name, block in self._blocks.items():
            read = self._read(name)
            assert read is not None
            scores, about = read
            parts[block.requests].append(scores)
            places[block.requests] += block.places
            seconds[block.requests][about["rank"]] += about["seconds"]
            notes |= dict.fromkeys(about["notes"])
        return [
            TaskScores(
                one,
                Scores.join(parts[i]).take(np.argsort(places[i]).tolist()),
                max(seconds[i].values()),
            )
            for i, one in enumerate(self._requests)
        ], list(notes)

    def _write(self, block: Block, scores: Scores, about: Mapping[str, Any]) -> None:
        """Keep a block."""
        buffer = io.BytesIO()
        arrays = {name: getattr(scores, name) for name in _ARRAYS}
        text = np.frombuffer(orjson.dumps(dict(about)), np.uint8)
        np.savez_compressed(buffer, about=text, **arrays)
        write_atomic(self.folder / block.name, buffer.getvalue())

    def _read(self, name: str) -> tuple[Scores, dict[str, Any]] | None:
        """A block that is there, whole, and of these rows; else None."""
        try:
            with np.load(self.folder / name) as file:
                arrays = {array: file[array] for array in _ARRAYS}
                about = orjson.loads(file["about"].tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        if about["places"] != list(self._blocks[name].places):
            return None
        return Scores(**arrays, texts=tuple(about["texts"])), about


def shares(costs: Sequence[int], size: int) -> list[list[int]]:
    """The numbers of the blocks of each of ``size`` processes, evenly by cost, in order."""
    loads, found = [0] * size, [list[int]() for _ in range(size)]
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        least = loads.index(min(loads))
        loads[least] += costs[i]
        found[least].append(i)
    return [sorted(one) for one in found]
