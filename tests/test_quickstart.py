"""The whole way through real Axolotl: once as the quickstart, and once failing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.data.readers import read_rows
from multitask.run import Run
from multitask.runners.axolotl.validate import axolotl_installed
from tests.warm import multitask, run_warm

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def done(folder: Path) -> subprocess.CompletedProcess[str]:
    """A true launch: nothing in it is warm."""
    return subprocess.run(
        [sys.executable, "-m", "multitask", "quickstart", "--out", "run"],
        capture_output=True, text=True, cwd=folder, env=dict(os.environ) | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(folder: Path, done: subprocess.CompletedProcess[str]) -> Run:
    assert done.returncode == 0, done.stderr
    return Run(folder / "run")


def test_it_ends_by_naming_the_report_and_calls_itself_a_toy(
    done: subprocess.CompletedProcess[str], run: Run
) -> None:
    assert done.stderr.rstrip().endswith(f"report: {run.root / 'report.html'}")
    assert "say nothing about the quality" in done.stderr
    assert "say nothing about the quality" in (run.root / "report.html").read_text()


def test_every_file_of_the_contract_is_there(run: Run) -> None:
    for name in (
        "spec.yaml", "plan.md", "axolotl.yaml", "accelerate.yaml", "launch/node.sh",
        "data/train.jsonl", "data/validation.jsonl", "data/test.jsonl", "data/manifest.json",
        "model/model.safetensors", "evaluation/trained/results.json",
        "evaluation/trained/predictions.parquet", "report.html", "report.md",
    ):  # fmt: skip
        assert (run.root / name).is_file(), name
    assert list(run.model.glob("checkpoint-*/trainer_state.json"))


def test_the_plugin_was_inside_the_training(run: Run) -> None:
    events = [json.loads(line) for line in run.trainer_events.read_text().splitlines()]
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "end"
    assert events[-1]["step"] == events[-1]["max_steps"] >= 200
    losses = [e["values"]["loss"] for e in events if "loss" in e.get("values", {})]
    assert float(losses[-1]) < 0.5 * float(losses[0])


def _assert_scored_as_trained(run: Run) -> None:
    """Axolotl's own tokens and supervision of each training row equal the scorer's."""
    from datasets import load_from_disk
    from transformers import AutoTokenizer

    from multitask.scoring.encode import Encoder

    prepared = [path.parent for path in (run.root / "prepared").rglob("dataset_info.json")]
    rows = read_rows(run.split("train"))
    trained = next(d for p in prepared if len(d := load_from_disk(str(p))) == len(rows))
    supervised = {
        tuple(ids): tuple(token for token in labels if token != -100)
        for ids, labels in zip(trained["input_ids"], trained["labels"], strict=True)
    }
    encoder = Encoder(AutoTokenizer.from_pretrained(run.model))
    for row in rows:
        prompt, answer = (message["content"] for message in row["messages"])
        encoded = encoder.encode(prompt, [answer])
        assert supervised[encoded.prompt + encoded.answers[0]] == encoded.answers[0]


def test_what_is_scored_is_what_was_trained(run: Run) -> None:
    _assert_scored_as_trained(run)


def test_training_twice_is_refused_and_nothing_is_lost(run: Run) -> None:
    before = (run.model / "model.safetensors").read_bytes()
    again = multitask("train", run.root, cwd=run.root)
    assert again.returncode == 2
    assert "has been trained before" in again.stderr
    assert (run.model / "model.safetensors").read_bytes() == before


def test_the_quickstart_does_not_overwrite(run: Run) -> None:
    again = multitask("quickstart", "--out", run.root, cwd=run.root)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_axolotl_yaml_starts_unchanged_from_any_folder(run: Run, tmp_path: Path) -> None:
    """A copy of the run, started by hand from elsewhere, trains the copy."""
    copy = tmp_path / "copy"
    shutil.copytree(run.root, copy, ignore=shutil.ignore_patterns("model", "logs", "evaluation"))
    started = run_warm(
        "accelerate", "--config_file", copy / "accelerate.yaml", "-m", "axolotl.cli.train",
        copy / "axolotl.yaml", "--max_steps=2", cwd=tmp_path,
    )  # fmt: skip
    assert started.returncode == 0, started.stdout[-2000:] + started.stderr[-2000:]
    assert (copy / "model" / "model.safetensors").is_file()


def test_a_training_that_fails_is_a_failure(run: Run, tmp_path: Path) -> None:
    """The base model's weights are torn: the launch dies, and the user is told where to look."""
    copy = tmp_path / "torn"
    shutil.copytree(run.root, copy, ignore=shutil.ignore_patterns("model", "logs", "evaluation"))
    weights = copy / "base_model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    failed = multitask("train", copy, cwd=tmp_path)
    assert failed.returncode == 1
    assert "training failed at step 0" in failed.stderr
    logs = list((copy / "logs").glob("train-*.log"))
    assert len(logs) == 1
    assert str(logs[0]) in failed.stderr
    assert "afetensor" in failed.stderr  # the last lines say what it died of


def test_a_training_without_the_plugin_is_not_started(run: Run, tmp_path: Path) -> None:
    """That Axolotl cannot import it is in tests/training/test_train.py."""
    copy = tmp_path / "bare"
    shutil.copytree(run.root, copy, ignore=shutil.ignore_patterns("model", "logs", "evaluation"))
    config: dict[str, Any] = yaml.safe_load((copy / "axolotl.yaml").read_text())
    config["plugins"] = ["not_installed_here.Plugin"]
    (copy / "axolotl.yaml").write_text(yaml.safe_dump(config))
    bare = multitask("train", copy, cwd=tmp_path)
    assert bare.returncode == 2
    assert "without multitask's plugin" in bare.stderr
    assert not (copy / "logs").exists()


def test_lora_in_the_alpaca_form_trains_and_its_adapter_is_scored(run: Run, tmp_path: Path) -> None:
    """The default method, on the toy: the adapter is loaded on its base and scored.

    Alpaca's template ends its prompt with a line break instead of a special token, so this is
    also where tokens could merge over the border between prompt and answer.
    """
    spec = tmp_path / "spec.yaml"
    content = {
        "model": str(run.root / "base_model"),
        "tasks": ["banking77", "text_claims"],
        "cluster": "cpu",
        "method": "lora",
        "epochs": 1,
        "sequence_len": 256,
        "sample": True,
        "templates": {"format": "alpaca"},
    }
    spec.write_text(yaml.safe_dump(content))
    for arguments in (
        ["build-config", spec, "--out", "lora", "--no-validate"],
        ["train", "lora"],
        ["evaluate", "lora", "--limit", "5"],
        ["report", "lora"],
    ):
        step = multitask(*arguments, cwd=tmp_path)
        assert step.returncode == 0, step.stderr
    assert (tmp_path / "lora" / "model" / "adapter_config.json").is_file()
    _assert_scored_as_trained(Run(tmp_path / "lora"))
    results = json.loads((tmp_path / "lora/evaluation/trained/results.json").read_text())
    assert [task["n"] for task in results["tasks"].values()] == [5, 5]
