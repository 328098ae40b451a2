"""The way through the commands: single-task specs, trainings by Axolotl, comparison, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from multitask.run import Run
from multitask.runners.axolotl.validate import axolotl_installed
from multitask.toy import ToySize, write_toy_model
from tests.evaluation.transfer.conftest import Runs
from tests.toy_run import multitask


def test_wrong_arguments_of_the_preset_end_with_2(tmp_path: Path) -> None:
    for arguments, message in (
        (["--preset", "single-task"], "add --from RUN"),
        (["--preset", "single-tsak"], "did you mean 'single-task'"),
        (["--preset", "single-task", "--from", "x", "--budget", "row"], "did you mean 'rows'"),
        (["--from", str(tmp_path)], "--preset single-task"),
        (["--preset", "single-task", "--from", str(tmp_path / "none")], "no such spec file"),
    ):
        done = multitask("init", *arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_compare_prints_a_table_and_names_the_file(runs: Runs) -> None:
    options = ["--limit", "20", "--no-distribution", "--generate", "0", "--no-baselines"]
    compare = [part for run in runs.alone.values() for part in ("--compare", str(run.root))]
    done = multitask("evaluate", runs.together.root, *options, *compare)
    assert done.returncode == 0, done.stderr
    assert "what sharing one model gave and took" in done.stdout
    assert "mean relative gain" in done.stdout
    path = runs.together.evaluations / "trained/interference.json"
    assert str(path) in " ".join(done.stdout.split("\n"))
    assert list(json.loads(path.read_text())["tasks"]) == list(runs.alone)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two tasks, trained by Axolotl for some steps."""
    folder = tmp_path_factory.mktemp("commands")
    texts = ["classify this claim", "water damage in the kitchen", "where is my card?"] * 30
    size = ToySize(hidden=64, layers=2, heads=4, vocabulary=600, context=256)
    write_toy_model(folder / "toy", texts, size=size)
    spec = {
        "model": str(folder / "toy"),
        "tasks": ["text_claims", "banking77"],
        "cluster": "cpu",
        "method": "full",
        "sequence_len": 256,
        "sample": True,
        "epochs": 0.5,
        "learning_rate": 0.003,
        "axolotl": {"logging_steps": 1},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    run = Run(folder / "first")
    for arguments in (
        ["build-config", folder / "spec.yaml", "--out", run.root, "--no-validate"],
        ["train", run.root],
    ):
        done = multitask(*arguments)
        assert done.returncode == 0, done.stderr
    return run


@pytest.mark.train
@pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed")
@pytest.mark.parametrize("budget", ["rows", "steps"])
def test_the_budget_is_that_which_was_asked_for(first: Run, tmp_path: Path, budget: str) -> None:
    specs, alone = tmp_path / "specs", tmp_path / "alone"
    task = "text_claims"
    for arguments in (
        ["init", specs, "--preset", "single-task", "--from", first.root, "--budget", budget],
        ["build-config", specs / f"{task}.yaml", "--out", alone, "--no-validate"],
        ["train", alone],
        ["evaluate", first.root, "--compare", alone, "--generate", "0", "--no-distribution"],
        ["report", first.root],
    ):
        done = multitask(*arguments)
        assert done.returncode == 0, done.stderr
    record = json.loads((first.evaluations / "trained/interference.json").read_text())
    found = record["tasks"][task]["budget"]
    assert (found["same"], found["same_training_rows"], record["notes"]) == (budget, True, [])
    mine, theirs = found["this"], found["other"]
    if budget == "rows":
        assert theirs["seen"] == mine["seen"]
        assert 0 < theirs["steps"] < mine["steps"]
    else:
        assert theirs["steps"] == mine["steps"] > 0
        assert theirs["tokens"] > mine["tokens"]
    made = json.loads(first.trainer_events.read_text().splitlines()[0])["environment"]
    assert {"axolotl", "torch", "transformers"} <= set(made["versions"])
    assert "Made with" in (first.root / "report.html").read_text()
