"""What an adapter says about its dataset, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from multitask.data.records import Record
from multitask.errors import InputError
from multitask.tasks import Example


@dataclass(frozen=True)
class HubDataset:
    """Where a dataset lies on the Hugging Face Hub.

    Attributes:
        repo: ``owner/name``.
        revision: A commit; a branch only where no commit is known.
    """

    repo: str
    revision: str

    @property
    def page(self) -> str:
        """The page a person visits to read about it and to accept its conditions."""
        return f"https://huggingface.co/datasets/{self.repo}"


@dataclass(frozen=True)
class TaskData:
    """A dataset in the project's own terms.

    Attributes:
        labels: The closed label space, in the order of the label ids.
        splits: Rows by split. ``train`` is always there; ``test`` where the dataset has labelled
            test rows of its own.
        dropped: Rows left out: ``{"file", "row", "reason"}`` each.
    """

    labels: tuple[str, ...]
    splits: Mapping[str, list[Example]]
    dropped: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True)
class Adapter:
    """One dataset: where it lies and how its rows are read.

    Attributes:
        name: The task's name.
        hub: Its place on the Hub.
        files: File of each split in ``DATA_DIR/<name>/``.
        optional_files: Further files there, used when present.
        read: From the path of each split (and optional file) to rows.
    """

    name: str
    hub: HubDataset
    files: Mapping[str, str]
    read: Callable[[Mapping[str, Path]], TaskData]
    optional_files: Mapping[str, str] = field(default_factory=dict)


def text_field(record: Record, column: str, *, path: Path, row: int) -> str:
    """A text that must be there and must not be blank.

    Raises:
        InputError: The column is missing, or the cell is empty or no text.
    """
    if column not in record:
        raise InputError(
            f"no column {column!r}", where=path, fix=f"the file has: {', '.join(map(str, record))}"
        )
    value = record[column]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{column!r} is empty", where=f"{path}: row {row}")
    return value
