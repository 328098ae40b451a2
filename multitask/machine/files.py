"""A run's files for a client: uploads in chunks, listings with hashes; nothing outside the run."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from multitask.machine.checks import sha256_of
from multitask.machine.exchange import FOLDER
from multitask.machine.protocol import (
    BUNDLE_FILE,
    MAX_CHUNK,
    BundleFile,
    FileEntry,
    check_path,
    parse_bundle,
)
from multitask.run import write_atomic

HASH_SECONDS = 20.0
"""How long a request waits for hashes; what is hashed later is there at the next request."""

_MOST_LISTED = 50_000
_BUNDLE_BYTES = 16 * 2**20


class RefusedError(Exception):
    """A request that is refused.

    Attributes:
        status: The HTTP status.
        received: Bytes that are there, where the client should go on.
    """

    def __init__(self, status: int, why: str, *, received: int | None = None) -> None:
        """Refuse with a status and a reason."""
        super().__init__(why)
        self.status, self.received = status, received


class Files:
    """The files of a run directory.

    Attributes:
        root: The run directory.
        bundle: Hash of the bundle that may be uploaded.
    """

    def __init__(self, root: Path, bundle: str) -> None:
        """Serve ``root``, which is made when the first file comes."""
        self.root, self.bundle = root, bundle
        self._parts = root / FOLDER / "upload"
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._hashes: dict[str, tuple[tuple[int, int], Future[str]]] = {}
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def wanted(self) -> dict[str, BundleFile]:
        """The files of the bundle by path; empty before its list is there."""
        path = self.root / BUNDLE_FILE
        if not path.is_file():
            return {}
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.bundle:
            return {}
        return {file["path"]: file for file in parse_bundle(content)}

    def missing(self) -> list[str]:
        """Files of the bundle that are missing or have another size; hashes were seen before."""
        wanted = self.wanted()
        if not wanted:
            return [BUNDLE_FILE]
        return [path for path, file in wanted.items() if not self._is_there(path, file["size"])]

    def put(self, path: str, offset: int, size: int, sha256: str, body: bytes) -> int:
        """Take a chunk of a file.

        Returns:
            Bytes of the file that are there now.

        Raises:
            RefusedError: 400 a wrong path or size; 409 not a file of the bundle, or the chunk does
                not begin where the file ends; 413 too long; 422 the finished file has another
                hash, and was dropped.
        """
        target = self._resolve(path)
        if len(body) > MAX_CHUNK:
            raise RefusedError(413, f"a chunk has at most {MAX_CHUNK} bytes")
        self._require_wanted(path, size, sha256)
        with self._alone(path):
            return self._take(target, path, offset, size, sha256, body)

    def open(self, path: str) -> Path:
        """A file to be read.

        Raises:
            RefusedError: 400 a wrong path; 404 no such file.
        """
        target = self._resolve(path)
        if self._is_private(path) or not target.is_file():
            raise RefusedError(404, f"there is no file {path!r}")
        return target

    def hash_of(self, path: str) -> str | None:
        """Hash of a file; None while it is being computed."""
        future = self._hash(path)
        wait([future], timeout=HASH_SECONDS)
        try:
            return future.result() if future.done() else None
        except FileNotFoundError:
            raise RefusedError(404, f"there is no file {path!r}") from None

    def entries(self, prefix: str) -> list[FileEntry]:
        """The run's files, and uploads that are not complete."""
        names = []
        for folder, folders, files in os.walk(self.root):
            base = Path(folder)
            folders[:] = sorted(f for f in folders if not (base / f).is_symlink())
            for name in sorted(files):
                relative = (base / name).relative_to(self.root).as_posix()
                listed = relative.startswith(prefix) and not self._is_private(relative)
                if listed and not (base / name).is_symlink():
                    names.append(relative)
            if len(names) > _MOST_LISTED:
                raise RefusedError(400, "too many files; ask with a prefix")
        # Small files first: a checkpoint takes minutes to hash.
        futures = {name: self._hash(name) for name in sorted(names, key=self._size)}
        wait(futures.values(), timeout=HASH_SECONDS)
        entries = [self._entry(name, futures[name]) for name in names]
        return [entry for entry in entries if entry is not None] + self._incomplete(prefix)

    def _entry(self, name: str, future: Future[str]) -> FileEntry | None:
        path = self.root / name
        try:
            size = path.stat().st_size
            digest = future.result() if future.done() else ""
        except OSError:
            return None  # it was there a moment ago: a temporary file, or a rotated checkpoint
        return {"path": name, "size": size, "sha256": digest, "complete": future.done()}

    def _incomplete(self, prefix: str) -> list[FileEntry]:
        entries: list[FileEntry] = []
        for path in self.wanted():
            part = self._part(path)
            if path.startswith(prefix) and part.is_file():
                size = part.stat().st_size
                entries.append({"path": path, "size": size, "sha256": "", "complete": False})
        return entries

    def _take(
        self, target: Path, path: str, offset: int, size: int, sha256: str, body: bytes
    ) -> int:
        if self._is_there(path, size):
            return size  # a repeated request
        part = self._part(path)
        received = part.stat().st_size if part.is_file() else 0
        if offset != received:
            raise RefusedError(409, f"{received} bytes are there", received=received)
        if offset + len(body) > size:
            raise RefusedError(400, f"{path} would have more than its {size} bytes")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            file.write(body)
            if offset + len(body) == size:
                file.flush()
                os.fsync(file.fileno())
        if offset + len(body) == size:
            self._finish(part, target, path, sha256)
        return offset + len(body)

    def _finish(self, part: Path, target: Path, path: str, sha256: str) -> None:
        if sha256_of(part) != sha256:
            part.unlink()
            raise RefusedError(422, f"{path} has another hash and was dropped; send it again")
        if path == BUNDLE_FILE:
            self._check_list(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.chmod(0o755 if target.suffix == ".sh" else 0o644)
        part.replace(target)

    def _check_list(self, part: Path) -> None:
        try:
            files = parse_bundle(part.read_bytes())
            private = [file["path"] for file in files if self._is_private(file["path"])]
            if private:
                raise ValueError(f"{private[0]} is the machine's own")
        except ValueError as error:
            part.unlink()
            raise RefusedError(422, f"{BUNDLE_FILE}: {error}") from None

    def _require_wanted(self, path: str, size: int, sha256: str) -> None:
        if path == BUNDLE_FILE:
            if sha256 != self.bundle or size > _BUNDLE_BYTES:
                raise RefusedError(409, "this machine was created for another bundle")
            return
        wanted = self.wanted().get(path)
        if wanted is None:
            raise RefusedError(409, f"{path} is no file of the bundle; {BUNDLE_FILE} comes first")
        if (wanted["size"], wanted["sha256"]) != (size, sha256):
            raise RefusedError(409, f"{path} has another size or hash in the bundle")

    def _resolve(self, path: str) -> Path:
        """The place of a path; no component of it may be a link."""
        try:
            target = self.root / check_path(path)
        except ValueError as error:
            raise RefusedError(400, str(error)) from None
        place = self.root
        for component in path.split("/"):
            place = place / component
            if place.is_symlink():
                raise RefusedError(400, f"{path} leads through a link")
        return target

    def _is_there(self, path: str, size: int) -> bool:
        target = self.root / path
        return target.is_file() and not target.is_symlink() and target.stat().st_size == size

    def _is_private(self, path: str) -> bool:
        return path == FOLDER or path.startswith(f"{FOLDER}/")

    def _part(self, path: str) -> Path:
        return self._parts / f"{hashlib.sha256(path.encode()).hexdigest()}.part"

    @contextmanager
    def _alone(self, path: str) -> Iterator[None]:
        """One request at a time writes a file."""
        with self._lock:
            if path in self._busy:
                raise RefusedError(409, f"another request writes {path}")
            self._busy.add(path)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(path)

    def _hash(self, path: str) -> Future[str]:
        """The hash of a file as it is now; computed once, in the background."""
        target = self.root / path
        try:
            found = target.stat()
            state = (found.st_size, found.st_mtime_ns)
        except OSError:
            state = (-1, 0)
        with self._lock:
            known = self._hashes.get(path)
            if known is None or known[0] != state:
                known = self._hashes[path] = (state, self._hasher.submit(sha256_of, target))
            return known[1]

    def _size(self, path: str) -> int:
        try:
            return (self.root / path).stat().st_size
        except OSError:
            return 0


def ensure_volume(volume: Path) -> None:
    """See that a volume can be written to.

    Raises:
        OSError: It cannot.
    """
    volume.mkdir(parents=True, exist_ok=True)
    probe = volume / f".multitask-{os.getpid()}"
    write_atomic(probe, "")
    probe.unlink()
