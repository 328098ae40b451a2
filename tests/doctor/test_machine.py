"""Disk, shared memory and limits, made small for real where the user may."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from multitask.doctor.machine import memory_bytes
from tests.doctor.conftest import Doctor

SPEC = (
    "model: Qwen/Qwen3-0.6B\ntasks: [text_claims]\nsample: true\ncluster: 1x4-a100-80gb\n"
    "method: full\n"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small file system; skips where this user may not."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        )
        if done.returncode:
            pytest.skip("only root may mount a file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_does_not_hold_the_run_is_a_problem(
    doctor: Doctor, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=50m")
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "runs").symlink_to(disk)
    told = doctor(tmp_path / "spec.yaml")
    disks = [check for check in told.record["checks"] if check["name"] == "disk"]
    # The run lies on the small one, the model comes to the other.
    assert disks[0]["state"] == "problem"
    assert disks[0]["found"].startswith("52 MB free on the disk of ")
    assert "run directory" in disks[0]["found"]
    assert disks[1]["found"].endswith("(Hub cache 1.2 GB)")


def test_a_full_disk_of_the_hub_s_cache_is_a_problem(
    doctor: Doctor, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=50m")
    (tmp_path / "spec.yaml").write_text(SPEC)
    told = doctor(tmp_path / "spec.yaml", HF_HOME=str(disk))
    wrong = [
        c["found"] for c in told.record["checks"] if (c["name"], c["state"]) == ("disk", "problem")
    ]
    assert len(wrong) == 1
    assert wrong[0].endswith("(Hub cache 1.2 GB)")


def test_a_disk_that_cannot_be_written_is_a_problem(
    doctor: Doctor, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=50m,ro")
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "runs").symlink_to(disk)
    check = doctor(tmp_path / "spec.yaml").check("run directory")
    assert check.severity == "problem"
    assert "Read-only file system" in check.answer


def test_the_shared_memory_that_docker_gives_is_too_small_for_several_gpus(
    doctor: Doctor, tmp_path: Path
) -> None:
    own = ("unshare", "--mount", "sh", "-c")
    small = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if subprocess.run([*own, small], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    (tmp_path / "spec.yaml").write_text(SPEC)
    told = doctor(tmp_path / "spec.yaml", prefix=(*own, f'{small} && exec "$0" "$@"'))
    check = told.check("/dev/shm")
    assert (check.severity, check.answer.split(":")[0]) == ("problem", "64 MiB")
    assert "--shm-size" in check.remedy


def test_few_open_files_are_worth_a_warning(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    told = doctor(tmp_path / "spec.yaml", prefix=("sh", "-c", 'ulimit -Sn 512 && exec "$0" "$@"'))
    check = told.check("open files")
    assert check.severity == "warning"
    assert check.remedy.startswith("ulimit -n 4096")


def test_main_memory_is_at_most_the_machine_s() -> None:
    found = memory_bytes()
    assert found is not None
    assert 0 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
