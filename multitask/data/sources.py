"""Sources: where the files of a task come from, and the record of it.

The order is: the embedded sample when asked for, the user's data folder, then each place on the
Hub that the adapter knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from multitask.data.adapters import Adapter, Files, HubDataset, TaskData
from multitask.data.hub import HubUnreachableError, download
from multitask.data.rejects import Rejects
from multitask.errors import InputError

SAMPLE_DIR = Path(__file__).with_name("sample")


@dataclass(frozen=True)
class Source:
    """Files of one task and where they were found.

    Attributes:
        kind: ``sample``, ``directory`` or ``hub``.
        location: The folder, or the Hub repository.
        revision: The Hub commit that was read; None for folders.
        files: Paths of each split or optional file.
        tried: Places that were tried before this one, and why they were not taken.
    """

    kind: str
    location: str
    revision: str | None
    files: Files
    tried: list[dict[str, str]] = field(default_factory=list)

    def record(self) -> dict[str, object]:
        """What the manifest keeps: place, revision, and name, size and sha256 of each file."""
        return {
            "kind": self.kind,
            "location": self.location,
            "revision": self.revision,
            "tried": self.tried,
            "files": {
                key: [
                    {"name": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths
                ]
                for key, paths in sorted(self.files.items())
            },
        }


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_task(
    adapter: Adapter,
    *,
    data_dir: Path | None,
    sample: bool,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> tuple[Source, TaskData, Rejects]:
    """Find a task's files and read them.

    Args:
        adapter: The task's adapter.
        data_dir: Folder that may hold ``<task>/``; looked at before the Hub.
        sample: Take the embedded sample and nothing else.
        on_rows: Told how many rows were looked at, while they are read.

    Returns:
        Where the rows came from, the rows, and what was left out.

    Raises:
        InputError: A folder lacks a file, a file cannot be used, or no place on the Hub gives
            the dataset.
    """
    local = local_source(adapter, data_dir=data_dir, sample=sample)
    if local is not None:
        return (local, *_read(adapter, local, on_rows))
    return _read_from_hub(adapter, data_dir, on_rows)


def _read(
    adapter: Adapter, source: Source, on_rows: Callable[[int], None]
) -> tuple[TaskData, Rejects]:
    rejects = Rejects(limit=adapter.max_bad_rows, on_rows=on_rows)
    data = adapter.read(source.files, rejects)
    rejects.check(next(iter(source.files.values()))[0], adapter.name)
    for split, rows in data.splits.items():
        if not rows and split == "train":
            raise InputError(
                f"no usable rows for training in task {adapter.name!r}", where=source.location
            )
    wrong = adapter.check(data)
    if wrong:
        raise InputError(wrong, where=source.location)
    return data, rejects


def local_source(adapter: Adapter, *, data_dir: Path | None, sample: bool) -> Source | None:
    """Find a task's files on this machine; None where they come from the Hub.

    Raises:
        InputError: A folder or a file that was named is missing.
    """
    if sample and (SAMPLE_DIR / adapter.name).is_dir():
        return _from_folder(adapter, SAMPLE_DIR / adapter.name, "sample")
    if not adapter.hub:
        return _from_folder(adapter, Path(), "directory")
    if data_dir is not None:
        if not data_dir.is_dir():
            raise InputError("no such data folder", where=data_dir, fix="correct --data-dir")
        if (data_dir / adapter.name).is_dir():
            return _from_folder(adapter, data_dir / adapter.name, "directory")
    return None


def _from_folder(adapter: Adapter, folder: Path, kind: str) -> Source:
    missing = [name for name in adapter.files.values() if not (folder / name).is_file()]
    if missing and not adapter.hub:
        raise InputError(
            f"task {adapter.name!r}: no such file", where=missing[0], fix="correct its `source`"
        )
    if missing:
        raise InputError(
            f"task {adapter.name!r} needs {', '.join(missing)} here",
            where=folder,
            fix="put the file there, or remove the folder to use the Hub",
        )
    files = {key: (folder / name,) for key, name in adapter.files.items()}
    for key, name in adapter.optional_files.items():
        if (folder / name).is_file():
            files[key] = (folder / name,)
    folder = next(iter(files.values()))[0].parent
    location = "embedded sample" if kind == "sample" else str(folder)
    return Source(kind=kind, location=location, revision=None, files=files)


def _read_from_hub(
    adapter: Adapter, data_dir: Path | None, on_rows: Callable[[int], None]
) -> tuple[Source, TaskData, Rejects]:
    tried: list[dict[str, str]] = []
    errors: list[InputError] = []
    for place in adapter.hub:
        # A shipped task knows its splits; another one may have any of the usual three.
        required = list(adapter.files) or ["train"]
        try:
            commit, files = download(place, required, optional=adapter.optional_splits)
            source = Source("hub", place.repo, commit, files, list(tried))
            data, rejects = _read(adapter, source, on_rows)
            _require_row_counts(place, data)
        except HubUnreachableError as error:
            raise InputError(
                f"task {adapter.name!r}: {error}\n  fix: {_offline_advice(adapter, data_dir)}"
            ) from None
        except InputError as error:
            errors.append(error)
            tried.append({"location": place.repo, "reason": str(error)})
            continue
        rejects.notes += [f"{t['location']} was not taken: {t['reason']}" for t in tried]
        return source, data, rejects
    raise InputError(f"task {adapter.name!r}: {errors[0]}")


def _require_row_counts(place: HubDataset, data: TaskData) -> None:
    for split, expected in place.rows.items():
        found = len(data.splits.get(split, ()))
        if found != expected:
            raise InputError(
                f"{place.repo} has {found:,} {split} rows where the dataset has {expected:,}, "
                "so it is another version"
            )


def _offline_advice(adapter: Adapter, data_dir: Path | None) -> str:
    if not adapter.files:
        return "connect, or download the data by hand and give its path in `source`"
    base = data_dir or Path("DIR")
    return (
        f"put {', '.join(adapter.files.values())} into {base / adapter.name} and pass "
        f"--data-dir {base}, or use the embedded sample with --sample"
    )
