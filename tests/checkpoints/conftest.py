"""Checkpoints as the libraries themselves write them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.checkpoints import Inputs, Marker, fingerprint, write_marker
from multitask.checkpoints.layout import kind_of, list_files
from multitask.run import Run

INPUTS = Inputs(1, "spec", {"train.jsonl": "rows"}, {"learning_rate": 0.1, "seed": 1})


def write_plain(folder: Path, world_size: int = 1) -> Path:
    """What one process or DDP writes."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({"weight": torch.arange(64.0)}, folder / "model.safetensors")
    torch.save({"state": {}}, folder / "optimizer.pt")
    torch.save({}, folder / "training_args.bin")
    _write_rest(folder, world_size)
    return folder


def write_sharded(folder: Path, world_size: int = 2) -> Path:
    """What FSDP2 writes: shards by torch's own writer."""
    import torch
    from torch.distributed import checkpoint as dcp

    for part in ("pytorch_model_fsdp_0", "optimizer_0"):
        writer = dcp.FileSystemWriter(folder / part)
        dcp.save({"weight": torch.arange(4096.0)}, storage_writer=writer, no_dist=True)
    _write_rest(folder, world_size)
    return folder


def _write_rest(folder: Path, world_size: int) -> None:
    import torch

    torch.save({}, folder / "scheduler.pt")
    names = [f"rng_state_{r}.pth" for r in range(world_size)] if world_size > 1 else None
    for name in names or ["rng_state.pth"]:
        torch.save({}, folder / name)
    step = int(folder.name.split("-")[-1])
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def mark(folder: Path, inputs: Inputs = INPUTS) -> Path:
    """Write a true marker."""
    files = list_files(folder)
    records = {name: fingerprint(folder / name) for name in files}
    step = int(folder.name.split("-")[-1])
    write_marker(folder, Marker(step, time.time(), kind_of(files), inputs, records))
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write the checkpoint of a step; ``marked=False`` leaves it as a crash would."""

    def write(step: int, *, marked: bool = True, **options: Any) -> Path:
        folder = write_plain(tmp_path / "model" / f"checkpoint-{step}", **options)
        return mark(folder) if marked else folder

    return write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    run.spec.write_text("model: x\n")
    run.data.mkdir()
    write_manifest(run, "rows")
    write_config(run, learning_rate=0.1, save_steps=3)
    return run


def write_manifest(run: Run, digest: str) -> None:
    run.manifest.write_text(json.dumps({"files": {"train.jsonl": {"rows": 1, "sha256": digest}}}))


def write_config(run: Run, **keys: Any) -> None:
    run.axolotl.write_text(yaml.safe_dump(keys))


def save(run: Run, step: int, world_size: int = 1) -> Path:
    folder = write_plain(run.model / f"checkpoint-{step}", world_size)
    return mark(folder, Inputs.of(run, world_size))


def fail_to_read(path: Path) -> None:
    """Have the system answer EIO to whoever reads a file, as a disk that fails does (proc(5))."""
    path.unlink()
    path.symlink_to("/proc/self/mem")
