"""Disk, shared memory, main memory and limits of this machine."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from multitask.checks import Check, ok, problem, warning
from multitask.doctor.subject import Subject
from multitask.formatting import byte_size

GROUP = "machine"
_GB = 10**9
_GIB = 1 << 30
_SHM = Path("/dev/shm")  # noqa: S108
# NCCL's documentation asks containers for 1 GB; Docker gives 64 MB where nobody asks.
_LEAST_SHM = _GIB
# A rank's shards, its data loaders' tensors and the files of its rows.
_LEAST_FILES = 4096
# Free disk below which logs and a small run may fail, where no estimate says more.
_LEAST_GB = 5.0


@dataclass(frozen=True)
class Need:
    """Disk that a run takes somewhere.

    Attributes:
        what: What lies there.
        path: Where; need not exist yet.
        gb: How much in GB; None where it is not known.
    """

    what: str
    path: Path
    gb: float | None


def machine_checks(subject: Subject, *, model_is_here: bool) -> list[Check]:
    """Free disk, writable folders, shared memory, main memory, open files.

    Args:
        subject: What is to be trained.
        model_is_here: Whether the base model is on this machine's disk already.
    """
    needs = _needs(subject, model_is_here=model_is_here)
    return [
        *(_writable(need) for need in needs),
        *_disk(needs),
        *_shared_memory(subject),
        *_main_memory(subject),
        _open_files(subject),
    ]


def _needs(subject: Subject, *, model_is_here: bool) -> list[Need]:
    from huggingface_hub.constants import HF_HUB_CACHE

    setup, cache = subject.setup, Path(HF_HUB_CACHE)
    if setup is None or setup.estimate is None or setup.model.shape is None:
        return [Need("run directory", subject.folder, None), Need("Hub cache", cache, None)]
    base = setup.model.shape.parameters * 2 / _GB
    run = setup.estimate.disk_gb - base
    if subject.run is not None:
        run = max(0.0, run - _size(subject.run.model) / _GB)
    needs = [Need("run directory", subject.folder, run)]
    if not model_is_here:
        needs.append(Need("Hub cache", cache, base))
    return needs


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; those that vanish meanwhile do not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _writable(need: Need) -> Check:
    place = _existing(need.path)
    try:
        with tempfile.TemporaryFile(prefix=".multitask-doctor-", dir=place) as file:
            file.write(b"x")
    except OSError as error:
        return problem(
            GROUP,
            need.what,
            f"{need.path}: nothing can be written to {place} ({error.strerror})",
            "change its owner or mount, or choose another place"
            + (" with HF_HOME" if need.what == "Hub cache" else ""),
        )
    note = "" if place == need.path.expanduser().absolute() else ", to be made"
    return ok(GROUP, need.what, f"{need.path}{note}: writable")


def _disk(needs: list[Need]) -> Iterator[Check]:
    """Free space against what is needed, once for each file system."""
    by_device: dict[int, list[Need]] = {}
    for need in needs:
        by_device.setdefault(_existing(need.path).stat().st_dev, []).append(need)
    for there in by_device.values():
        place = _existing(there[0].path)
        free = shutil.disk_usage(place).free / _GB
        known = [need for need in there if need.gb is not None]
        wanted = sum(need.gb or 0.0 for need in known)
        parts = " + ".join(f"{need.what} {byte_size(1e9 * (need.gb or 0.0))}" for need in known)
        text = f"{byte_size(1e9 * free)} free on the disk of {place}"
        if known and free < wanted:
            fix = "free some, take a larger volume, or keep fewer (`checkpoint: {keep: 2}`)"
            yield problem(
                GROUP, "disk", f"{text}, and {byte_size(1e9 * wanted)} are needed ({parts})", fix
            )
        elif known:
            yield ok(GROUP, "disk", f"{text}, {byte_size(1e9 * wanted)} needed ({parts})")
        elif free < _LEAST_GB:
            yield warning(GROUP, "disk", text, "a model and its checkpoints take more")
        else:
            yield ok(GROUP, "disk", text)


def _shared_memory(subject: Subject) -> list[Check]:
    if not _SHM.is_dir():
        return []
    total = shutil.disk_usage(_SHM).total
    text = f"{total / _GIB:.1f} GiB" if total >= _GIB / 10 else f"{total / (1 << 20):.0f} MiB"
    cluster = subject.cluster
    if total >= _LEAST_SHM or (cluster is not None and cluster.on_cpu):
        return [ok(GROUP, str(_SHM), text)]
    fix = "start the container with --shm-size=16g (or --ipc=host)"
    text += ": data loaders and NCCL pass tensors through it"
    if cluster is not None and cluster.gpus_per_node > 1:
        return [problem(GROUP, str(_SHM), text, fix)]
    return [warning(GROUP, str(_SHM), text, fix)]


def _main_memory(subject: Subject) -> list[Check]:
    total = memory_bytes()
    if total is None:
        return []
    text = f"{total / _GB:.0f} GB"
    setup = subject.setup
    if setup is None or setup.estimate is None:
        return [ok(GROUP, "main memory", text)]
    # A cluster's own file says what its nodes have; this machine may only be where it is planned.
    host = setup.estimate.memory.host * max(1, setup.cluster.gpus_per_node)
    if host * _GB > total:
        text += f", and offloading takes {host:.0f} GB of each node"
        fix = "train on nodes with more, or without `cpu_offload`"
        return [warning(GROUP, "main memory", text, fix)]
    return [ok(GROUP, "main memory", text)]


def memory_bytes() -> int | None:
    """Main memory of this machine, or what its container may use of it."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    # Control groups, version 2 and 1.
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _open_files(subject: Subject) -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    on_cpu = subject.cluster is not None and subject.cluster.on_cpu
    if soft == resource.RLIM_INFINITY or soft >= _LEAST_FILES or (on_cpu and soft >= 1024):
        return ok(GROUP, "open files", f"up to {text} (ulimit -n)")
    able = hard == resource.RLIM_INFINITY or hard >= _LEAST_FILES
    fix = f"ulimit -n {_LEAST_FILES}" + ("" if able else ", after an administrator raised the "
                                         "hard limit")  # fmt: skip
    return warning(GROUP, "open files", f"up to {text} (ulimit -n): few for sharded saves", fix)
