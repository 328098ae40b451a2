"""Sources: where the files of a task come from, and the record of it.

The order is: the embedded sample when asked for, the user's data folder, the Hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from multitask.data.adapters import Adapter
from multitask.errors import InputError

SAMPLE_DIR = Path(__file__).with_name("sample")


@dataclass(frozen=True)
class Source:
    """Files of one task and where they were found.

    Attributes:
        kind: ``sample``, ``directory`` or ``hub``.
        location: The folder, or the Hub repository.
        revision: The Hub commit that was read; None for folders.
        files: Path of each split or optional file.
    """

    kind: str
    location: str
    revision: str | None
    files: Mapping[str, Path]

    def record(self) -> dict[str, object]:
        """What the manifest keeps: place, revision, and name, size and sha256 of each file."""
        return {
            "kind": self.kind,
            "location": self.location,
            "revision": self.revision,
            "files": {
                key: {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
                for key, path in sorted(self.files.items())
            },
        }


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_source(adapter: Adapter, *, data_dir: Path | None, sample: bool) -> Source:
    """Locate a task's files.

    Args:
        adapter: The task's adapter.
        data_dir: Folder that may hold ``<task>/``; looked at before the Hub.
        sample: Take the embedded sample and nothing else.

    Raises:
        InputError: The folder lacks a file, or the Hub does not give the dataset.
    """
    if sample:
        return _from_folder(adapter, SAMPLE_DIR / adapter.name, "sample")
    if data_dir is not None:
        if not data_dir.is_dir():
            raise InputError("no such data folder", where=data_dir, fix="correct --data-dir")
        folder = data_dir / adapter.name
        if folder.is_dir():
            return _from_folder(adapter, folder, "directory")
    return _from_hub(adapter, data_dir)


def _from_folder(adapter: Adapter, folder: Path, kind: str) -> Source:
    missing = [name for name in adapter.files.values() if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"task {adapter.name!r} needs {', '.join(missing)} here",
            where=folder,
            fix="put the file there, or remove the folder to use the Hub",
        )
    files = {key: folder / name for key, name in adapter.files.items()}
    for key, name in adapter.optional_files.items():
        if (folder / name).is_file():
            files[key] = folder / name
    location = "embedded sample" if kind == "sample" else str(folder)
    return Source(kind=kind, location=location, revision=None, files=files)


def _from_hub(adapter: Adapter, data_dir: Path | None) -> Source:
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    hub = adapter.hub
    try:
        info = HfApi().dataset_info(hub.repo, revision=hub.revision)
        names = [sibling.rfilename for sibling in info.siblings or []]
        files = {
            split: Path(hf_hub_download(hub.repo, name, repo_type="dataset", revision=info.sha))
            for split, name in _pick(names, adapter, hub.repo).items()
        }
    except HfHubHTTPError as error:
        raise _hub_refusal(adapter, error) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.TransportError, OSError) as error:
        raise InputError(
            f"task {adapter.name!r}: the Hub cannot be reached ({type(error).__name__})",
            where=hub.page,
            fix=_offline_advice(adapter, data_dir),
        ) from None
    return Source(kind="hub", location=hub.repo, revision=info.sha, files=files)


def _pick(names: list[str], adapter: Adapter, repo: str) -> dict[str, str]:
    """Choose the file of each split in a Hub repository: the adapter's own name, or Parquet."""
    picked: dict[str, str] = {}
    for split, own_name in adapter.files.items():
        patterns = (own_name, f"*/{own_name}", f"*{split}*.parquet")
        found = [name for p in patterns for name in sorted(names) if fnmatch(name, p)]
        if not found:
            raise InputError(
                f"no file for the split {split!r} in the repository",
                where=f"https://huggingface.co/datasets/{repo}",
                fix="download the data by hand and pass --data-dir",
            )
        picked[split] = found[0]
    return picked


def _hub_refusal(adapter: Adapter, error: Exception) -> InputError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    page = adapter.hub.page
    if status in (401, 403):
        return InputError(
            f"task {adapter.name!r}: the Hub refuses access ({status})",
            where=page,
            fix=f"accept the conditions on {page} and run `hf auth login`",
        )
    return InputError(
        f"task {adapter.name!r}: the Hub does not give the dataset ({status or error})",
        where=page,
        fix="try again later, or download the data by hand and pass --data-dir",
    )


def _offline_advice(adapter: Adapter, data_dir: Path | None) -> str:
    folder = data_dir / adapter.name if data_dir else Path("DIR") / adapter.name
    return (
        f"put {', '.join(adapter.files.values())} into {folder} and pass --data-dir "
        f"{data_dir or 'DIR'}, or use the embedded sample with --sample"
    )
