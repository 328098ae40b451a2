"""What an adapter says about its dataset, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from multitask.data.readers import Rejects
from multitask.tasks import Example

Files = Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class HubDataset:
    """Where a dataset lies on the Hugging Face Hub.

    Attributes:
        repo: ``owner/name``.
        revision: A commit; a branch only where no commit is known.
        config: Folder or configuration within the repository.
        rows: Rows that each split must have; a copy that differs is not taken.
    """

    repo: str
    revision: str
    config: str | None = None
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def page(self) -> str:
        """The page a person visits to read about it and to accept its conditions."""
        return f"https://huggingface.co/datasets/{self.repo}"


@dataclass(frozen=True)
class TaskData:
    """A dataset in the project's own terms.

    Attributes:
        labels: The closed label space, in the order of the label ids; empty for generation.
        splits: Rows by split. ``train`` is always there; ``validation`` and ``test`` where the
            dataset has labelled rows of its own for them.
    """

    labels: tuple[str, ...]
    splits: Mapping[str, list[Example]]


class Read(Protocol):
    """Turns the files of a dataset into rows; what cannot be used goes to ``rejects``."""

    def __call__(self, files: Files, rejects: Rejects) -> TaskData:
        """Read every split."""
        ...


@dataclass(frozen=True)
class Adapter:
    """One dataset: where it lies and how its rows are read.

    Attributes:
        name: The task's name.
        hub: Its places on the Hub, the preferred one first.
        files: File of each split in ``DATA_DIR/<name>/``.
        read: From the paths of each split (and optional file) to rows.
        optional_files: Further files there, used when present.
        optional_splits: Splits that are read from the Hub where it has them.
        max_bad_rows: How many unusable rows are tolerated; None for any number.
        check: Looks at what was read; returns what is wrong with it, if anything.
    """

    name: str
    hub: tuple[HubDataset, ...]
    files: Mapping[str, str]
    read: Read
    optional_files: Mapping[str, str] = field(default_factory=dict)
    optional_splits: tuple[str, ...] = ()
    max_bad_rows: int | None = 0
    check: Callable[[TaskData], str | None] = lambda _: None
