"""The run directory: everything about one fine-tune, under fixed names."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from multitask.digests import NAME as SUMS
from multitask.digests import write_digests, written_files
from multitask.errors import InputError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Run:
    """Paths of a run directory; see the README for what each file holds.

    Attributes:
        root: The run directory.
    """

    root: Path

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Take an existing run directory.

        Raises:
            InputError: There is none at ``path``.
        """
        run = cls(Path(path))
        if not run.spec.is_file():
            raise InputError(
                "not a run directory (it has no spec.yaml)",
                where=path,
                fix="make one with `multitask build-config SPEC --out RUN`",
            )
        return run

    @property
    def spec(self) -> Path:
        """The resolved spec."""
        return self.root / "spec.yaml"

    @property
    def cluster(self) -> Path:
        """A copy of the cluster's file, where it is one of the user's."""
        return self.root / "cluster.yaml"

    @property
    def data(self) -> Path:
        """The folder of the materialised mixture."""
        return self.root / "data"

    def split(self, name: str) -> Path:
        """The rows of a split."""
        return self.data / f"{name}.jsonl"

    @property
    def manifest(self) -> Path:
        """Sources, counts, drops and hashes of the data."""
        return self.data / "manifest.json"

    @property
    def plan(self) -> Path:
        """The mixture plan."""
        return self.root / "plan.md"

    @property
    def axolotl(self) -> Path:
        """Axolotl's configuration."""
        return self.root / "axolotl.yaml"

    @property
    def engine_file(self) -> Path:
        """The configuration of the engine that the run was built for."""
        from multitask.runners import runner_of

        return self.root / runner_of(self).file

    @property
    def accelerate(self) -> Path:
        """Accelerate's configuration."""
        return self.root / "accelerate.yaml"

    @property
    def deepspeed(self) -> Path:
        """DeepSpeed's configuration, where it shards the model."""
        return self.root / "deepspeed.json"

    @property
    def launch(self) -> Path:
        """The folder of launch scripts."""
        return self.root / "launch"

    @property
    def logs(self) -> Path:
        """The folder of logs; ``trainer.jsonl`` in it is written by the plugin."""
        return self.root / "logs"

    @property
    def trainer_events(self) -> Path:
        """What the plugin records during training, one JSON object a line."""
        return self.logs / "trainer.jsonl"

    @property
    def evaluation_log(self) -> Path:
        """Metrics of each task at every evaluation in the training, one JSON object a line."""
        return self.logs / "evaluation.jsonl"

    @property
    def evaluation_rows(self) -> Path:
        """Ids of the validation rows that are evaluated in the training, by task."""
        return self.logs / "evaluation-rows.json"

    @property
    def balance_log(self) -> Path:
        """Loss, tokens and rows of each task as trained on, one JSON object a line."""
        return self.logs / "balance.jsonl"

    @property
    def model(self) -> Path:
        """Axolotl's output directory: checkpoints and the trained model."""
        return self.root / "model"

    @property
    def evaluations(self) -> Path:
        """The folder that holds one folder per evaluation."""
        return self.root / "evaluation"

    def require(self, path: Path, command: str) -> Path:
        """Return a path of this run that an earlier command must have written.

        Raises:
            InputError: It is not there.
        """
        if not path.exists():
            raise InputError(
                f"{path.name} is missing", where=self.root, fix=f"run `{command}` first"
            )
        return path


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Write a directory under a temporary name and give it its own name at the end.

    When the block raises, nothing stays behind. When ``out`` is a run already, no file of it may
    change: files that are the same stay, missing ones are added, and what only ``out`` has, such
    as checkpoints, is left alone.

    Yields:
        The temporary directory, beside ``out``.

    Raises:
        InputError: ``out`` exists with other content, or is no directory.
    """
    if out.exists() and not out.is_dir():
        raise InputError("exists and is no directory", where=out, fix="choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "spec.yaml").is_file():
        raise InputError(
            "the directory exists with other content and is no run",
            where=out,
            fix="choose another --out, or empty it",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    stage.chmod(0o755)
    try:
        yield stage
        if (stage / "spec.yaml").is_file():  # what the user gave, which may be a login of a service
            (stage / "spec.yaml").chmod(0o600)
        write_digests(stage, written_files(stage))
        if out.is_dir() and any(out.iterdir()):
            _merge(stage, out)
        else:
            stage.rename(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Write a new folder under a temporary name; when the block raises, nothing stays behind.

    Yields:
        The temporary folder, beside ``out``.

    Raises:
        InputError: ``out`` exists and is no empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("exists already", where=out, fix="remove it, or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    stage.chmod(0o755)
    try:
        yield stage
        stage.replace(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _merge(stage: Path, out: Path) -> None:
    """Add the files of ``stage`` that ``out`` lacks; refuse before the first if one differs."""
    sums = stage / SUMS
    files = sorted(path for path in stage.rglob("*") if path.is_file() and path != sums)
    missing = []
    for path in files:
        existing = out / path.relative_to(stage)
        if not existing.exists():
            missing.append((path, existing))
        elif not existing.is_file() or existing.read_bytes() != path.read_bytes():
            raise InputError(
                f"the run exists with other content: {path.relative_to(stage)} would change",
                where=out,
                fix=f"choose another --out, or remove {out} if you do not need it",
            )
    for path, target in missing:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    known = out / SUMS
    lines = {line for path in (known, sums) if path.is_file() for line in _lines(path)}
    write_atomic(known, "".join(sorted(lines, key=lambda line: line[66:])))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it; no reader sees half of it."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
