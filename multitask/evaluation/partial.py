"""What an unfinished evaluation has already: blocks of rows in ``RUN/evaluation/NAME/partial``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from multitask.errors import InputError
from multitask.run import write_atomic

FOLDER = "partial"

_KEY = "key.json"


@dataclass(frozen=True)
class Block:
    """Rows of a part that are done.

    Attributes:
        places: Which rows of the part.
        records: One per row.
        seconds: How long the model took over them.
        worker: The process that did them; the seconds of different ones overlap.
        session: The start of the command that did them; those of different ones do not.
        notes: What the scorer had to say so far.
    """

    places: tuple[int, ...]
    records: list[dict[str, Any]]
    seconds: float
    worker: int
    session: str
    notes: tuple[str, ...]


class Partial:
    """The folder of an unfinished evaluation.

    Every block is a file of its own under its final name only once it is whole, so that a process
    that is killed while it writes leaves nothing that is read. Blocks belong to a key: what the
    model, the data and the settings were.
    """

    def __init__(self, directory: Path) -> None:
        """Keep blocks below an evaluation's directory."""
        self.folder = directory / FOLDER

    def open(self, key: Mapping[str, str], *, restart: bool = False) -> int:
        """Begin, or continue what was interrupted.

        Args:
            key: What the blocks depend on, by name.
            restart: Throw away what is there.

        Returns:
            How many blocks are there.

        Raises:
            InputError: What is there has another key.
        """
        if restart:
            self.remove()
        path = self.folder / _KEY
        if path.is_file():
            found = _json(path) or {}
            differs = [name for name in key if found.get(name) != key[name]]
            if differs and self.blocks():
                raise InputError(
                    f"an unfinished evaluation is there, with another {' and '.join(differs)}",
                    where=self.folder,
                    fix="start it as it was to finish it, choose another --name, or add "
                    "--restart to throw it away",
                )
        write_atomic(path, orjson.dumps(dict(key)))
        return self.blocks()

    def blocks(self) -> int:
        """How many blocks are there."""
        return sum(path.name != _KEY for path in self.folder.glob("[0-9]*.json"))

    def read(self, part: int, number: int, places: Sequence[int]) -> Block | None:
        """A block that is there, whole, and of these rows; else None."""
        content = _json(self._path(part, number))
        if content is None or content.get("places") != list(places):
            return None
        if len(content["records"]) != len(places):
            return None
        return Block(
            tuple(places),
            content["records"],
            content["seconds"],
            content["worker"],
            content["session"],
            tuple(content["notes"]),
        )

    def write(self, part: int, number: int, block: Block) -> None:
        """Keep a block."""
        content = {
            "places": block.places,
            "records": block.records,
            "seconds": block.seconds,
            "worker": block.worker,
            "session": block.session,
            "notes": block.notes,
        }
        write_atomic(self._path(part, number), orjson.dumps(content))

    def remove(self) -> None:
        """Throw everything away, and the evaluation's directory if nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        parent = self.folder.parent
        for directory in (parent, parent.parent):
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()

    def _path(self, part: int, number: int) -> Path:
        return self.folder / f"{part:03d}-{number:06d}.json"


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None
