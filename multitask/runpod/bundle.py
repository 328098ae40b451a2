"""The files of a run that a training needs, with their hashes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multitask.errors import InputError
from multitask.machine.protocol import (
    BUNDLE_FILE,
    BundleFile,
    bundle_json,
    bundle_sha256,
    check_path,
)
from multitask.run import Run
from multitask.runpod.record import FILE, PREFIX
from multitask.spec import Spec

SCRATCH = frozenset({"attempts", "machine", "prepared", "wandb"})
"""What a training leaves in a run that is of use where it was trained only."""

_LEFT_HERE = SCRATCH | {"model", "evaluation", "logs", "rehearsal", "report.html", "report.md"}
_LEFT_HERE_FILES = frozenset({FILE, BUNDLE_FILE})
_ID_LENGTH = 48


@dataclass(frozen=True)
class Bundle:
    """A list of files.

    Attributes:
        root: The run directory.
        files: What is sent.
    """

    root: Path
    files: tuple[BundleFile, ...]

    @property
    def sha256(self) -> str:
        """The hash that stands for all of it."""
        return bundle_sha256(self.files)

    @property
    def listing(self) -> bytes:
        """``bundle.json``."""
        return bundle_json(self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file["size"] for file in self.files)


def make_bundle(run: Run) -> Bundle:
    """List what a training of ``run`` needs: everything but what training and reports write.

    Raises:
        InputError: A file has a name that cannot be sent.
    """
    files: list[BundleFile] = []
    for path in sorted(run.root.rglob("*")):
        relative = path.relative_to(run.root)
        top = relative.parts[0]
        if top in _LEFT_HERE | _LEFT_HERE_FILES or any(p.startswith(".") for p in relative.parts):
            continue
        if not path.is_file():
            continue
        try:
            name = check_path(relative.as_posix())
        except ValueError as error:
            raise InputError(str(error), where=path, fix="rename or remove the file") from None
        size, digest = path.stat().st_size, file_sha256(path)
        files.append({"path": name, "size": size, "sha256": digest})
    return Bundle(run.root, tuple(files))


def file_sha256(path: Path, seen: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of a file; ``seen`` is told the bytes of each part."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
            seen(len(chunk))
    return digest.hexdigest()


def run_id(run: Run, bundle: Bundle) -> str:
    """The run's name on machines: that of its directory, and what tells its content apart.

    The same files have the same name, so that a second command finds the first one's machines.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", run.root.resolve().name.lower()).strip("-")
    return f"{slug[: _ID_LENGTH - 9].strip('-') or 'run'}-{bundle.sha256[:8]}"


def machine_name(identity: str) -> str:
    """The pod's or cluster's name at RunPod."""
    return PREFIX + identity


def check_sendable(spec: Spec, run: Run) -> None:
    """Refuse a run of which a rented machine cannot get a part.

    Raises:
        InputError: The model is a folder, or the cluster a file, of this machine outside the run.
    """
    root = run.root.resolve()
    if spec.cluster.endswith((".yaml", ".yml")) and not Path(spec.cluster).is_relative_to(root):
        raise InputError(
            f"{spec.cluster} is a file of this machine, which a rented one cannot read",
            where="key 'cluster'",
            fix="use a shipped cluster (docs/clusters.md)",
        )
    if Path(spec.model).is_absolute() and not Path(spec.model).is_relative_to(root):
        raise InputError(
            f"the model {spec.model} is a folder of this machine, which a rented one cannot read",
            where="key 'model'",
            fix="upload it (`hf upload OWNER/NAME FOLDER --private`) and use that id",
        )
