"""Files to a rented machine and back: in parts, resumed where they were cut, checked by hash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from multitask.errors import MultitaskError
from multitask.machine.protocol import BUNDLE_FILE, MAX_CHUNK, FileEntry, check_path
from multitask.runpod.bundle import Bundle, file_sha256
from multitask.runpod.control import Control, UnreachableError
from multitask.runpod.machines import StoppedBySignalError
from multitask.runpod.signals import Signals

Progress = Callable[[str, int, int | None, str], None]

_TRIES = 12
_PARTIAL = ".partial"
_MB = 2**20


class Patience:
    """Tries something again while the machine does not answer."""

    def __init__(self, signals: Signals, backoff: float = 1.0, *, allowed: int = 0) -> None:
        """Wait ``backoff`` seconds before the second try, then twice as long each time.

        More than ``allowed`` signals end it.
        """
        self._signals, self._backoff, self._allowed = signals, backoff, allowed

    def through(self, step: Callable[[], bool]) -> None:
        """Call ``step`` until it returns true.

        Raises:
            UnreachableError: The machine stayed silent through all tries in a row.
            StoppedBySignalError: A signal asks to stop.
        """
        failures = 0
        while True:
            if self._signals.count > self._allowed:
                raise StoppedBySignalError("interrupted while files were transferred")
            try:
                if step():
                    return
                failures = 0
            except UnreachableError:
                failures += 1
                if failures >= _TRIES:
                    raise
                self._signals.pause(min(30.0, self._backoff * 2 ** (failures - 1)))


def upload(control: Control, bundle: Bundle, patience: Patience, progress: Progress) -> None:
    """Send what the machine lacks of a bundle; the list itself goes first.

    Raises:
        MultitaskError: The machine refuses a file, or stays silent.
    """
    state: dict[str, FileEntry] = {}

    def look() -> bool:
        state.update({entry["path"]: entry for entry in control.files()})
        return True

    listing = bundle.listing
    patience.through(look)
    _send(control, patience, BUNDLE_FILE, len(listing), bundle.sha256, state,
          lambda start: listing[start : start + MAX_CHUNK], lambda _: None)  # fmt: skip
    done, total = 0, max(1, bundle.size)
    for file in bundle.files:
        before = done

        def said(received: int, before: int = before) -> None:
            here = (before + received) // _MB
            progress("uploading", here, max(1, total // _MB), "MiB")

        with (bundle.root / file["path"]).open("rb") as source:

            def read(start: int) -> bytes:
                source.seek(start)  # used within this round alone
                return source.read(MAX_CHUNK)

            _send(control, patience, file["path"], file["size"], file["sha256"], state, read, said)
        done += file["size"]
    progress("uploading", max(1, total // _MB), max(1, total // _MB), "MiB")


def _send(
    control: Control,
    patience: Patience,
    path: str,
    size: int,
    sha256: str,
    state: dict[str, FileEntry],
    read: Callable[[int], bytes],
    said: Callable[[int], None],
) -> None:
    """Send one file from where the machine has it."""
    there = state.get(path)
    if there is not None and there["complete"] and there["sha256"] == sha256:
        return
    received = there["size"] if there is not None and not there["complete"] else 0
    at = {"offset": min(received, size)}
    stuck = {"count": 0}

    def step() -> bool:
        offset = at["offset"]
        has = control.put(path, read(offset), offset=offset, size=size, sha256=sha256)
        stuck["count"] = stuck["count"] + 1 if has <= offset and size else 0
        if stuck["count"] >= _TRIES:
            raise MultitaskError(f"the machine does not take {path} beyond byte {offset}")
        at["offset"] = has
        said(has)
        return has >= size

    patience.through(step)


def download(
    control: Control,
    entries: Iterable[FileEntry],
    root: Path,
    patience: Patience,
    progress: Progress,
) -> list[str]:
    """Fetch files into a run directory; each is checked, then given its name.

    Args:
        control: The machine.
        entries: What to fetch; incomplete files are left out.
        root: The run directory.
        patience: Tries again.
        progress: Told MiB so far, and in all.

    Returns:
        Paths that were fetched or were here already.

    Raises:
        MultitaskError: A file does not have the hash that the machine said, or does not arrive.
    """
    wanted = [entry for entry in entries if entry["complete"]]
    total = max(1, sum(entry["size"] for entry in wanted) // _MB)
    done, paths = 0, []
    for entry in wanted:
        target = root / _checked(entry["path"])
        if not (target.is_file() and file_sha256(target) == entry["sha256"]):
            _fetch(control, entry, target, patience)
        done += entry["size"]
        paths.append(entry["path"])
        progress("downloading", min(total, done // _MB), total, "MiB")
    return paths


def _checked(path: str) -> str:
    try:
        return check_path(path)
    except ValueError as error:
        raise MultitaskError(f"the machine names a file outside of the run: {error}") from None


def _fetch(control: Control, entry: FileEntry, target: Path, patience: Patience) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}{_PARTIAL}")
    size, wrong = entry["size"], {"count": 0}

    def step() -> bool:
        start = partial.stat().st_size if partial.exists() else 0
        if start > size:
            partial.unlink()
            start = 0
        if start < size or not partial.exists():
            with partial.open("ab") as out, control.get(entry["path"], offset=start) as parts:
                for part in parts:
                    out.write(part)
                out.flush()
                os.fsync(out.fileno())
        if partial.stat().st_size != size:
            raise UnreachableError(f"{entry['path']} was cut")
        if file_sha256(partial) == entry["sha256"]:
            partial.replace(target)
            return True
        partial.unlink()
        wrong["count"] += 1
        if wrong["count"] >= 2:
            raise MultitaskError(
                f"{entry['path']} arrives with another hash than the machine says",
                fix="start the same command again; the machine's own file may be damaged",
            )
        return False

    patience.through(step)
