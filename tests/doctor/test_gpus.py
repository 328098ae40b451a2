"""GPUs, by what nvidia-smi prints; a stand-in prints it, since tests run without any."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.cluster import load_cluster
from multitask.doctor import gpus
from multitask.doctor.gpus import Gpu, Gpus, find_gpus, gpu_checks, visible_count
from multitask.doctor.subject import Subject
from tests.doctor.conftest import named

A100 = Gpu("NVIDIA A100-SXM4-80GB", 85.9, 0.5, "sm_80")
FOUR = Gpus((A100,) * 4, "580.65.06", "13.0")
THREE_BY_FOUR = Subject(cluster=load_cluster("3x4-a100-80gb"))
ON_CPU = Subject(cluster=load_cluster("cpu"))
HEADER = "| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: 13.0 |"


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_the_answer_of_the_driver_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "NVIDIA A100-SXM4-80GB, 81920, 477, 580.65.06, 8.0, Disabled, 2"
    stand_in(
        tmp_path,
        f'case "$1" in --query-gpu=*) echo "{row}"; echo "{row}";; *) echo "{HEADER}";; esac',
        monkeypatch,
    )
    found = find_gpus()
    assert (len(found.all), found.driver, found.cuda) == (2, "580.65.06", "13.0")
    assert found.all[0].memory_gb == pytest.approx(85.9, abs=0.01)
    assert found.all[0].capability == "sm_80"
    assert found.all[0].memory_errors == 2


def test_fields_that_a_gpu_does_not_have_are_no_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = "NVIDIA GeForce RTX 3090, 24576, [N/A], 550.1, 8.6, [N/A], [N/A]"
    stand_in(tmp_path, f'echo "{row}"', monkeypatch)
    (gpu,) = find_gpus().all
    assert (gpu.partitioned, gpu.memory_errors, gpu.used_gb) == (False, 0, 0.0)


def test_what_a_broken_driver_says_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "Failed to initialize NVML: Driver/library version mismatch"
    stand_in(tmp_path, f'echo "{words}"; exit 18', monkeypatch)
    (check,) = gpu_checks(find_gpus(), THREE_BY_FOUR, {}, "12.8")
    assert (check.severity, check.answer) == ("problem", f"nvidia-smi: {words}")


def test_a_driver_that_hangs_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_SECONDS", 0.3)
    stand_in(tmp_path, "sleep 600", monkeypatch)
    (check,) = gpu_checks(find_gpus(), Subject(), {}, None)
    assert (check.severity, check.answer) == ("problem", "nvidia-smi gives no answer in 0.3 s")


@pytest.mark.parametrize(
    ("chosen", "count"),
    [(None, 4), ("", 0), ("-1", 0), ("0,1", 2), ("1,7,2", 1), ("GPU-8f,GPU-9c", 2)],
)
def test_hidden_gpus_do_not_count(chosen: str | None, count: int) -> None:
    environment = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_count(FOUR, environment) == count


def test_the_planned_gpus_are_ok() -> None:
    checks = gpu_checks(FOUR, THREE_BY_FOUR, {}, "12.8")
    assert {check.severity for check in checks} == {"ok"}


@pytest.mark.parametrize(
    ("found", "environment", "words"),
    [
        (Gpus((A100,) * 2, "580", "13.0"), {}, "and 2 can be used"),
        (FOUR, {"CUDA_VISIBLE_DEVICES": "0"}, "and 1 can be used"),
        (Gpus((Gpu("A100-40GB", 42.9, 0, "sm_80"),) * 4, "580", "13.0"), {}, "these have 43 GB"),
        (Gpus((Gpu("V100", 85.9, 0, "sm_70"),) * 4, "580", "13.0"), {}, "these are sm_70"),
        (Gpus(), {"NODE_RANK": "0"}, "there is none here"),
    ],
)
def test_other_gpus_than_planned_are_a_problem(
    found: Gpus, environment: dict[str, str], words: str
) -> None:
    check = named(gpu_checks(found, THREE_BY_FOUR, environment, "12.8"), "for this run")
    assert check.severity == "problem"
    assert words in check.answer


def test_without_gpus_a_run_for_gpus_can_be_planned_here() -> None:
    assert named(gpu_checks(Gpus(), THREE_BY_FOUR, {}, None), "for this run").severity == "warning"


def test_without_gpus_a_run_for_a_cpu_is_fine() -> None:
    assert {check.severity for check in gpu_checks(Gpus(), ON_CPU, {}, None)} == {"ok"}


def test_gpus_that_are_paid_for_and_not_used_are_worth_a_warning() -> None:
    eight = Gpus((A100,) * 8, "580", "13.0")
    check = named(gpu_checks(eight, THREE_BY_FOUR, {}, "12.8"), "for this run")
    assert (check.severity, check.answer) == ("warning", "it uses 4 of 8")


@pytest.mark.parametrize(
    ("cuda", "torch_cuda", "state"),
    [("13.0", "12.8", "ok"), ("12.4", "12.8", "ok"), ("12.8", "13.0", "problem"),
     ("13.0", None, "problem"), ("", "13.0", "ok")],
)  # fmt: skip
def test_the_driver_must_run_what_torch_is_built_for(
    cuda: str, torch_cuda: str | None, state: str
) -> None:
    found = Gpus((A100,), "1", cuda)
    assert named(gpu_checks(found, Subject(), {}, torch_cuda), "driver").severity == state


def test_a_gpu_in_use_or_with_memory_errors_is_named() -> None:
    found = Gpus((A100, Gpu("A100", 85.9, 40, "sm_80"), Gpu("A100", 85.9, memory_errors=3)))
    checks = gpu_checks(found, Subject(), {}, "12.8")
    assert named(checks, "GPU 1").answer == "40 of 86 GB are in use"
    assert named(checks, "GPU 2").severity == "problem"
