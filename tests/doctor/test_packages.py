"""Versions, in real environments that lack a package or have another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.doctor.packages import torch_cuda, wanted_versions
from tests.doctor.conftest import Doctor, MakeEnvironment

CPU_SPEC = "model: owner/model\ntasks: [text_claims]\nsample: true\ncluster: cpu\n"


@pytest.fixture
def cpu_spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(CPU_SPEC)
    return path


def test_without_the_train_extra_a_machine_that_trains_has_a_problem(
    doctor: Doctor, cpu_spec: Path, environment_without: MakeEnvironment
) -> None:
    python, _ = environment_without("axolotl", "peft")
    told = doctor(cpu_spec, python=python)
    assert told.check("axolotl").severity == "problem"
    assert told.check("axolotl").answer == "not installed; a part of the `train` extra"
    assert "multitask[train]" in told.check("peft").remedy
    assert "Axolotl is not installed" in told.check("plugin").answer
    assert told.code == 1


def test_without_it_runs_can_still_be_planned(
    doctor: Doctor, tmp_path: Path, environment_without: MakeEnvironment
) -> None:
    python, _ = environment_without("axolotl")
    (tmp_path / "spec.yaml").write_text(CPU_SPEC.replace("cpu", "1x1-a100-80gb"))
    told = doctor(tmp_path / "spec.yaml", python=python, PATH="/nowhere")
    assert told.check("axolotl").severity == "warning"


def test_another_version_than_axolotl_pins_is_a_problem(
    doctor: Doctor, cpu_spec: Path, environment_without: MakeEnvironment
) -> None:
    pytest.importorskip("axolotl")
    python, packages = environment_without("peft-")
    old = packages / "peft-0.1.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1.0\n")
    check = doctor(cpu_spec, python=python).check("peft")
    assert check.severity == "problem"
    assert check.answer.startswith("0.1.0, and axolotl needs ==")
    assert check.remedy.startswith("pip install 'peft==")


def test_a_missing_package_of_our_own_is_a_problem_in_the_common_line(
    doctor: Doctor, environment_without: MakeEnvironment
) -> None:
    python, _ = environment_without("datasketch")
    check = doctor(python=python).check("other packages")
    assert check.severity == "problem"
    assert check.answer.startswith("datasketch missing (multitask needs datasketch>=")


def test_what_training_does_not_need_may_be_missing(
    doctor: Doctor, cpu_spec: Path, environment_without: MakeEnvironment
) -> None:
    python, _ = environment_without("deepspeed", "flash_attn")
    told = doctor(cpu_spec, python=python)
    assert told.check("deepspeed").severity == "ok"
    assert told.check("flash-attn").severity == "ok"


def test_deepspeed_is_needed_where_the_spec_says_zero(
    doctor: Doctor, tmp_path: Path, environment_without: MakeEnvironment
) -> None:
    python, _ = environment_without("deepspeed")
    (tmp_path / "spec.yaml").write_text(
        "model: Qwen/Qwen3-8B\ntasks: [text_claims]\nsample: true\nsharding: zero3\n"
    )
    told = doctor(tmp_path / "spec.yaml", python=python, NODE_RANK="0", MASTER_ADDR="127.0.0.1")
    check = told.check("deepspeed")
    assert check.severity == "problem"
    assert "multitask[train,deepspeed]" in check.remedy


def test_our_pins_are_those_of_the_project() -> None:
    ours = {pin.name: pin for pin in wanted_versions() if pin.by.startswith("multitask")}
    assert ours["datasets"].by == "multitask"
    assert ours["axolotl"].by == "multitask[train]"
    assert ours["axolotl"].accepts("0.19.3")
    assert not ours["axolotl"].accepts("0.20.0")


def test_torch_s_build_is_read_without_importing_it() -> None:
    torch = pytest.importorskip("torch")
    assert torch_cuda() == torch.version.cuda
