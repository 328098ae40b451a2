"""SHA-256 of what multitask wrote into a run, in the format that ``sha256sum -c`` reads.

A file that a disk, a copy or an editor changed is found by them when it leads to an error: that
says more than the error itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import file_digest
from pathlib import Path

from multitask.errors import InputError
from multitask.files import remedy_for

NAME = "SHA256SUMS"


def write_digests(folder: Path, files: Sequence[Path]) -> None:
    """Write the digests of some files of a folder.

    Raises:
        OSError: A file cannot be read, or the folder not written.
    """
    lines = [f"{sha256(path)}  {path.relative_to(folder)}\n" for path in sorted(files)]
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def written_files(root: Path) -> list[Path]:
    """The files of a new run but the rows, of which the manifest has the digests."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".jsonl" and path.name != NAME
    ]


def damage(run: Path) -> InputError | None:
    """The first file of a run that is not what multitask wrote; None where all are."""
    for folder in _folders(run):
        for path, digest in _noted(folder):
            try:
                same = path.is_file() and sha256(path) == digest
            except OSError:
                same = False
            if not same:
                what = "is not as multitask wrote it" if path.is_file() else "is missing"
                return InputError(
                    f"{what}, and cannot be used", where=path, fix=remedy_for(path) or _AGAIN
                )
    return None


_AGAIN = "take it from a copy of the run, or undo the change"


def _folders(run: Path) -> Iterator[Path]:
    yield run
    yield from sorted(path.parent for path in run.glob(f"evaluation/**/{NAME}"))


def _noted(folder: Path) -> Iterator[tuple[Path, str]]:
    """What is noted of a folder's files: in its list, and of rows in the manifest."""
    try:
        for line in (folder / NAME).read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            yield folder / name, digest
    except (OSError, ValueError):
        pass
    try:
        manifest = json.loads((folder / "data" / "manifest.json").read_text(encoding="utf-8"))
        for name, entry in manifest["files"].items():
            yield folder / "data" / name, entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
