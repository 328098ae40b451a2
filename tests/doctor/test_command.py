"""What the command prints, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doctor.conftest import Doctor, clean_environment


def test_a_spec_that_trains_on_this_cpu_has_no_problem_but_its_model(
    doctor: Doctor, write_spec: Callable[..., Path]
) -> None:
    pytest.importorskip("axolotl")
    told = doctor(write_spec())
    # No network, and a model that nobody has.
    wrong = [check["name"] for check in told.record["checks"] if check["state"] == "problem"]
    assert wrong == ["model"]
    assert (told.code, told.record["problems"], told.record["healthy"]) == (1, 1, False)


def test_warnings_alone_end_with_0(doctor: Doctor, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("model: Qwen/Qwen3-0.6B\ntasks: [text_claims]\nsample: true\n")
    # No GPUs, whatever the tests run on: it is a machine on which runs are planned.
    told = doctor(spec, PATH=str(Path(sys.executable).parent))
    assert told.check("model").severity == "warning"
    assert told.check("for this run").severity == "warning"
    assert (told.code, told.record["problems"]) == (0, 0)


@pytest.mark.parametrize("argument", ["nowhere.yaml", ".", "not-a-spec.yaml"])
def test_an_argument_that_is_neither_spec_nor_run_ends_with_2(
    tmp_path: Path, argument: str
) -> None:
    (tmp_path / "not-a-spec.yaml").write_text("model: [\n")
    done = subprocess.run(
        [sys.executable, "-m", "multitask", "doctor", argument],
        capture_output=True, text=True, cwd=tmp_path, env=clean_environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""


def test_the_table_has_the_remedy_below_a_problem(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "multitask", "doctor", str(write_spec())],
        capture_output=True, text=True, cwd=tmp_path,
        env=clean_environment(tmp_path) | {"WORLD_SIZE": "8"},
    )  # fmt: skip
    lines = [line.strip() for line in done.stdout.splitlines()]
    at = next(i for i, line in enumerate(lines) if line.startswith("PROBLEM  WORLD_SIZE"))
    assert lines[at + 1].startswith("fix: unset WORLD_SIZE")
    assert done.returncode == 1


def test_nothing_heavy_is_imported_and_nothing_written(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    path = write_spec()
    code = (
        "import sys; from pathlib import Path; from multitask.doctor import examine\n"
        f"examine(Path({str(path)!r}))\n"
        "print(*({'torch', 'transformers', 'axolotl', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=tmp_path, env=clean_environment(tmp_path),
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_spec_that_does_not_fit_is_a_problem_of_its_own(doctor: Doctor, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "model: meta-llama/Llama-3.1-70B\ntasks: [text_claims]\nsample: true\n"
        "method: full\ncluster: 1x24gb\n"
    )
    told = doctor(spec)
    assert told.check("memory of a GPU").severity == "problem"
    assert "of a GPU's 24 GB" in told.check("memory of a GPU").answer


def test_a_choice_that_excludes_another_is_told_with_its_remedy(
    doctor: Doctor, write_spec: Callable[..., Path]
) -> None:
    check = doctor(write_spec(method="lora-8-bit")).check("spec")
    assert check.severity == "problem"
    assert check.remedy == "did you mean 'lora-8bit'?"


def test_the_memory_of_a_model_that_nobody_knows_is_not_known(
    doctor: Doctor, write_spec: Callable[..., Path]
) -> None:
    check = doctor(write_spec(cluster="1x24gb")).check("memory of a GPU")
    assert (check.severity, check.answer) == (
        "warning",
        "not known, since the model's sizes are not",
    )
