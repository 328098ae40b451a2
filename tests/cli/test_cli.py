"""The command line: help, exit codes, one clear message, and no heavy import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

COMMANDS = [
    "quickstart",
    "init",
    "doctor",
    "prepare",
    "estimate",
    "build-config",
    "rehearse",
    "train",
    "checkpoints",
    "evaluate",
    "report",
    "export",
    "push",
]
HEAVY = {"torch", "transformers", "axolotl", "datasets", "sklearn", "pyarrow", "numpy", "pydantic"}


def multitask(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "multitask", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


def test_help_lists_every_command() -> None:
    done = multitask("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    done = multitask(command, "--help")
    assert done.returncode == 0
    assert f"multitask {command}" in " ".join(done.stdout.split())
    assert "Example" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_and_option_is_explained(command: str) -> None:
    import typer

    from multitask.cli import app

    group = typer.main.get_command(app)
    for parameter in group.commands[command].params:  # type: ignore[attr-defined]
        assert parameter.help, parameter.name
        # In rich's markup, brackets are tags and vanish.
        assert "[" not in parameter.help, parameter.name


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, multitask.cli; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert HEAVY & set(done.stdout.split()) == set()


def test_no_arguments_show_the_help() -> None:
    assert "build-config" in multitask().stdout


def test_the_version_is_that_of_the_package() -> None:
    import multitask as package

    assert multitask("--version").stdout.strip() == f"multitask {package.__version__}"


def test_an_input_error_is_one_message_and_exit_code_2(write_spec: Callable[..., Path]) -> None:
    path = write_spec(lerning_rate=1)
    done = multitask("build-config", path, "--out", path.parent / "run")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {path}: unknown key 'lerning_rate'",
        "  fix: did you mean 'learning_rate'?",
    ]
    assert not (path.parent / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build-config", "nowhere.yaml"], "no such spec file"),
        (["train", "."], "not a run directory"),
        (["evaluate", "."], "not a run directory"),
        (["report", "."], "not a run directory"),
        (["init", "--preset", "defautl"], "did you mean 'default'"),
        (["frobnicate"], "No such command"),
    ],
)
def test_wrong_arguments_end_with_2(tmp_path: Path, arguments: list[str], expected: str) -> None:
    done = multitask(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_init_then_prepare_with_the_sample(tmp_path: Path) -> None:
    assert multitask("init", cwd=tmp_path).returncode == 0
    assert multitask("init", cwd=tmp_path).returncode == 2  # it would overwrite
    done = multitask("prepare", "multitask.yaml", "--sample", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "run" / "spec.yaml").read_text())["sample"] is True
    assert "Mixture plan" in done.stdout


def test_sample_and_data_dir_exclude_each_other(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    done = multitask("prepare", write_spec(), "--sample", "--data-dir", tmp_path)
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


def test_no_network_says_where_to_put_the_data(
    tmp_path: Path, write_spec: Callable[..., Path]
) -> None:
    done = multitask("prepare", write_spec(sample=None, tasks=["banking77"]), cwd=tmp_path)
    assert done.returncode == 2
    assert "offline mode is on" in done.stderr
    assert "train.csv, test.csv" in done.stderr
    assert not (tmp_path / "runs" / "multitask").exists()


def test_estimate_compares_without_renting_or_writing(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("model: Qwen/Qwen3-8B\ntasks: [banking77]\nsample: true\n")
    done = multitask("estimate", str(spec), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("GB per GPU", "1x24gb", "2x8-a100-80gb", "adalora", "(2026-11-28"):
        assert words in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_estimate_of_a_model_of_unknown_size_is_refused(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("model: nobody/knows\ntasks: [banking77]\nsample: true\n")
    done = multitask("estimate", str(spec), cwd=tmp_path)
    assert done.returncode == 2
    assert "sizes of nobody/knows are not known" in done.stderr
