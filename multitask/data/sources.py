"""Sources: where the files of a task come from, and the record of it.

The order is: the embedded sample when asked for, the user's data folder, then each place on the
Hub that the task names. Files are fetched from the Hub as they are, by commit, and never a
loading script, so no remote code is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from multitask.data import text_claims
from multitask.data.mapping import Files, TaskData, read_mapped
from multitask.data.readers import Rejects
from multitask.digests import sha256
from multitask.errors import InputError
from multitask.hub.client import retried, status_of
from multitask.task_spec import HubPlace, Split, TaskSpec

# Readers in Python, for files that no mapping can describe.
_READERS = {None: read_mapped, "text_claims": text_claims.read}

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


def read_task(
    task: TaskSpec,
    *,
    data_dir: Path | None,
    sample: bool,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> tuple[Source, TaskData, Rejects]:
    """Find a task's files and read them.

    Args:
        task: The task; its paths are absolute.
        data_dir: Folder that may hold ``<task>/``; looked at before the Hub.
        sample: Take the embedded sample and nothing else.
        on_rows: Told how many rows were looked at, while they are read.

    Returns:
        Where the rows came from, the rows, and what was left out.

    Raises:
        InputError: A folder lacks a file, a file cannot be used, or no place on the Hub gives
            the dataset.
    """
    local = local_source(task, data_dir=data_dir, sample=sample)
    if local is not None:
        return (local, *_read(task, local, on_rows))
    return _read_from_hub(task, data_dir, on_rows)


def _read(
    task: TaskSpec, source: Source, on_rows: Callable[[int], None]
) -> tuple[TaskData, Rejects]:
    limit = None if task.max_bad_rows == "any" else task.max_bad_rows
    rejects = Rejects(limit=limit, on_rows=on_rows)
    data = _READERS[task.reader](task, source.files, rejects)
    rejects.check(next(iter(source.files.values()))[0], task.name)
    for split, rows in data.splits.items():
        if not rows and split == "train":
            raise InputError(
                f"no usable rows for training in task {task.name!r}", where=source.location
            )
    return data, rejects


def local_source(task: TaskSpec, *, data_dir: Path | None, sample: bool) -> Source | None:
    """Find a task's files on this machine; None where they come from the Hub.

    Raises:
        InputError: A folder or a file that was named is missing.
    """
    if sample and (SAMPLE_DIR / task.name).is_dir():
        return _from_folder(task, SAMPLE_DIR / task.name, "sample")
    if not task.source.places:
        return _own_files(task)
    if data_dir is not None:
        if not data_dir.is_dir():
            raise InputError("no such data folder", where=data_dir, fix="correct --data-dir")
        if (data_dir / task.name).is_dir():
            return _from_folder(task, data_dir / task.name, "directory")
    return None


def _own_files(task: TaskSpec) -> Source:
    own = task.source
    named = {"train": own.path or own.train, "validation": own.validation, "test": own.test}
    if own.labels is not None:
        named[own.labels_key] = own.labels
    files = {key: (Path(name),) for key, name in named.items() if name is not None}
    missing = [path for (path,) in files.values() if not path.is_file()]
    if missing:
        raise InputError(
            f"task {task.name!r}: no such file", where=missing[0], fix="correct its `source`"
        )
    return Source("directory", str(files["train"][0].parent), None, files)


def _from_folder(task: TaskSpec, folder: Path, kind: str) -> Source:
    """The files of a dataset on the Hub that lie in a folder instead."""
    named = task.source.files
    here = [path.name for path in folder.iterdir()]
    files: dict[str, tuple[Path, ...]] = {}
    for split in (*task.source.required, *task.source.optional):
        name = named.get(split)
        found = [name] if name in here else [] if name else split_files(here, split, None)
        if found:
            files[split] = tuple(folder / name for name in found)
    gone = [split for split in task.source.required if split not in files]
    missing = [named.get(split, f"a file of the split {split!r}") for split in gone]
    if missing:
        raise InputError(
            f"task {task.name!r} needs {', '.join(missing)} here",
            where=folder,
            fix="put the file there, or remove the folder to use the Hub",
        )
    if task.source.labels in here:
        files[task.source.labels_key] = (folder / task.source.labels,)
    location = "embedded sample" if kind == "sample" else str(folder)
    return Source(kind=kind, location=location, revision=None, files=files)


def _read_from_hub(
    task: TaskSpec, data_dir: Path | None, on_rows: Callable[[int], None]
) -> tuple[Source, TaskData, Rejects]:
    tried: list[dict[str, str]] = []
    errors: list[InputError] = []
    for place in task.source.places:
        try:
            splits = task.source.required
            commit, files = download(place, splits, optional=task.source.optional)
            source = Source("hub", place.repo, commit, files, list(tried))
            data, rejects = _read(task, source, on_rows)
            _require_row_counts(place, data, task.source.rows)
        except HubUnreachableError as error:
            raise InputError(
                f"task {task.name!r}: {error}\n  fix: {_offline_advice(task, data_dir)}"
            ) from None
        except InputError as error:
            errors.append(error)
            tried.append({"location": place.repo, "reason": str(error)})
            continue
        rejects.notes += [f"{t['location']} was not taken: {t['reason']}" for t in tried]
        return source, data, rejects
    raise InputError(f"task {task.name!r}: {errors[0]}")


def _require_row_counts(place: HubPlace, data: TaskData, rows: Mapping[Split, int]) -> None:
    for split, expected in rows.items():
        found = len(data.splits.get(split, ()))
        if found != expected:
            raise InputError(
                f"{place.repo} has {found:,} {split} rows where the dataset has {expected:,}, "
                "so it is another version"
            )


def _offline_advice(task: TaskSpec, data_dir: Path | None) -> str:
    if not task.source.files:
        return "connect, or download the data by hand and give its path in `source`"
    base = data_dir or Path("DIR")
    return (
        f"put {', '.join(task.source.files.values())} into {base / task.name} and pass "
        f"--data-dir {base}, or use the embedded sample with --sample"
    )


_T = TypeVar("_T")
_SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv", ".ndjson")
_SPLIT_WORDS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "validation"
)
_RETRIES = 3


class HubUnreachableError(InputError):
    """The Hub itself cannot be reached, so that another repository on it cannot either."""


def download(
    dataset: HubPlace, splits: Sequence[str], *, optional: Sequence[str]
) -> tuple[str, Files]:
    """Fetch the files of a dataset's splits into the Hub's cache.

    Args:
        dataset: Repository and revision.
        splits: Splits, or names of single files, that must be there.
        optional: Splits that may be there.

    Returns:
        The commit that was read, and the local files of each split.

    Raises:
        HubUnreachableError: No connection, or offline mode without a cached copy.
        InputError: The repository is gated, private, missing, or has no such files, or a
            download broke off again and again.
    """
    commit, names = _listing(dataset)
    picked: dict[str, list[str]] = {}
    for split in (*splits, *optional):
        found = split_files(names, split, dataset.config)
        if found:
            picked[split] = found
        elif split in splits:
            raise InputError(
                f"no file for the split {split!r} among {', '.join(sorted(names)) or 'no files'}",
                where=dataset.page,
                fix="download the data by hand and pass --data-dir, or name its files in `source`",
            )
    files = {
        split: tuple(_fetch(dataset, name, commit) for name in found)
        for split, found in picked.items()
    }
    return commit, files


def check_readable(dataset: HubPlace) -> None:
    """Check that a dataset's files can be had; in offline mode, that a copy is in the cache.

    The Hub is asked once, since a user waits for the answer.

    Raises:
        HubUnreachableError: No connection, or offline mode without a cached copy.
        InputError: The repository is gated, private or missing.
    """
    from huggingface_hub import HfApi, constants

    if constants.is_offline_mode():
        _cached_listing(dataset)
    else:
        ask = partial(HfApi().auth_check, dataset.repo, repo_type="dataset")
        _asking(dataset, ask, tries=1)


def split_files(names: Sequence[str], split: str, config: str | None) -> list[str]:
    """The data files of a split in a repository, by the names that the Hub's own tools use.

    A split's name stands alone between separators, as in ``train.csv``,
    ``data/train-00000-of-00002.parquet`` or ``CONFIG/train/0000.parquet``. The innermost name that
    speaks of one split counts: ``train_test_split/test.csv`` is a test file. When the repository
    has data files of one kind and none that names a split, all of them are ``train``.
    """
    data = sorted(n for n in names if n.lower().endswith(_SUFFIXES))
    if config is not None:
        data = [n for n in data if config in n.split("/")[:-1]]
    if split in names:
        return [split]
    wanted = [n for n in data if split_of(n) == split]
    if not wanted and split == "train" and not any(map(split_of, data)):
        wanted = data
    for suffix in _SUFFIXES:
        found = [n for n in wanted if n.lower().endswith(suffix)]
        if found:
            return found
    return []


def split_of(name: str) -> str | None:
    """The split that a data file belongs to by its path; None where no name speaks of just one."""
    for part in reversed(name.lower().split("/")):
        words = re.findall(r"[a-z0-9]+", part)
        found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
        if len(found) == 1:
            return found.pop()
    return None


def _listing(dataset: HubPlace) -> tuple[str, list[str]]:
    from huggingface_hub import HfApi, constants

    if constants.is_offline_mode():
        return _cached_listing(dataset)
    info = _asking(dataset, lambda: HfApi().dataset_info(dataset.repo, revision=dataset.revision))
    return str(info.sha), [sibling.rfilename for sibling in info.siblings or []]


def _cached_listing(dataset: HubPlace) -> tuple[str, list[str]]:
    """Commit and files of a copy in the Hub's cache; of a branch, the newest one."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = [
            repo
            for repo in scan_cache_dir().repos
            if (repo.repo_type, repo.repo_id) == ("dataset", dataset.repo)
        ]
    except CacheNotFound:
        repos = []
    copies = sorted((c for r in repos for c in r.revisions), key=lambda c: c.last_modified)
    wanted = [c for c in copies if dataset.revision in (c.commit_hash, *c.refs)]
    if not wanted and not re.fullmatch("[0-9a-f]{40}", dataset.revision):
        wanted = copies
    if not wanted:
        raise HubUnreachableError(
            "offline mode is on (HF_HUB_OFFLINE) and the dataset is not in the cache",
            where=dataset.page,
        )
    copy = wanted[-1]
    root = copy.snapshot_path
    return copy.commit_hash, [str(f.file_path.relative_to(root)) for f in copy.files]


def _fetch(dataset: HubPlace, name: str, commit: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(
        _asking(
            dataset,
            lambda: hf_hub_download(dataset.repo, name, repo_type="dataset", revision=commit),
        )
    )


def _asking(dataset: HubPlace, ask: Callable[[], _T], *, tries: int = _RETRIES) -> _T:
    """Call the Hub; wait and repeat on what passes, explain what does not."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    def passes(error: Exception) -> bool:
        last = _behind(error)
        return isinstance(last, (httpx.TransportError, OSError)) and not 0 < status_of(last) < 500

    try:
        return retried(ask, passes, tries)
    except (httpx.TransportError, OSError) as error:  # a cut or a short download among them
        last = _behind(error)
    if isinstance(last, HfHubHTTPError):
        if status_of(last) < 500:
            raise _refusal(dataset, last) from None
        raise InputError(
            f"the Hub answers {status_of(last)} again and again",
            where=dataset.page,
            fix="try again later, or download the data by hand and pass --data-dir",
        )
    cut = isinstance(last, (httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout))
    if cut or (isinstance(last, OSError) and not isinstance(last, ConnectionError)):
        raise InputError(
            f"the download broke off {tries} times ({type(last).__name__})",
            where=dataset.page,
            fix="try again, or download the data by hand and pass --data-dir",
        )
    raise HubUnreachableError(
        f"the Hub cannot be reached ({type(last).__name__})", where=dataset.page
    )


def _behind(error: Exception) -> Exception:
    """What kept huggingface_hub from asking, where it says only that the cache has no copy."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    known = isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled))
    return error.__cause__ if known and isinstance(error.__cause__, Exception) else error


def _refusal(dataset: HubPlace, error: Exception) -> InputError:
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    status, page = status_of(error), dataset.page
    if isinstance(error, GatedRepoError) or status in (401, 403):
        return InputError(
            f"the Hub refuses access to {dataset.repo} ({status}): it is gated or private",
            where=page,
            fix=f"visit {page} and accept its conditions, then run `hf auth login`",
        )
    if isinstance(error, RevisionNotFoundError):
        return InputError(
            f"{dataset.repo} has no revision {dataset.revision!r}",
            where=page,
            fix="give a commit, tag or branch that the page lists",
        )
    return InputError(
        f"the Hub does not give {dataset.repo} ({status})",
        where=page,
        fix="check the name, or download the data by hand and pass --data-dir",
    )
