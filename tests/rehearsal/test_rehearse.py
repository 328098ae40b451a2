"""Rehearsals for real: two ranks under FSDP2, one of them killed; and what they catch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from multitask.rehearsal import rehearse as module
from multitask.rehearsal.rehearse import Rehearsal
from multitask.run import Run
from multitask.runners.axolotl.validate import axolotl_installed
from tests.warm import WarmForks, multitask

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed"),
]
_SPEC = {
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "tasks": ["text_claims", "banking77", "commonsense_qa"],
    "sample": True,
    "leakage": {"near_duplicates": False},
    "checkpoint": {"keep": 2},
}


def _multitask(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "multitask", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=dict(os.environ) | {"HF_HUB_OFFLINE": "1"},
    )


def _built(folder: Path, **changes: object) -> Run:
    (folder / "spec.yaml").write_text(yaml.safe_dump(_SPEC | changes))
    built = multitask("build-config", "spec.yaml", "--out", "run", "--no-validate", cwd=folder)
    assert built.returncode == 0, built.stderr
    return Run(folder / "run")


def _record(run: Run) -> dict[str, object]:
    content: dict[str, object] = json.loads((run.root / "rehearsal/rehearsal.json").read_text())
    return content


def test_a_sound_run_passes_with_a_rank_killed(tmp_path: Path) -> None:
    run = _built(tmp_path)
    done = _multitask("rehearse", run.root, "--nodes", 1, "--procs", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = _record(run)
    assert record["passed"] is True
    assert record["steps_lost"] == [1]
    losses = record["losses"]
    assert isinstance(losses, dict)
    assert losses["disturbed"] == losses["undisturbed"]
    assert len(losses["undisturbed"]) == 6
    assert "flash attention" in done.stdout  # what it could not prove
    assert (run.root / "rehearsal/rehearsal.html").is_file()
    assert run.axolotl.is_file()
    assert not (run.root / "model").exists()  # the run itself is untouched


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--stall", "rank:1@step:3"],
        ["--disk-full", "node:0@save"],
        ["--kill", "rank:0@save"],
        ["--nodes", 2, "--procs", 1, "--kill", "node:1@step:3"],
        ["--nodes", 2, "--procs", 1, "--netns", "--partition", "node:1@step:3"],
    ],
)
def test_every_fault_is_survived_with_the_same_losses(
    tmp_path: Path, options: list[object]
) -> None:
    run = _built(tmp_path)
    layout = [] if "--nodes" in options else ["--nodes", 1, "--procs", 2]
    done = _multitask("rehearse", run.root, *layout, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _record(run)["passed"] is True


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "qlora"])
def test_other_methods_are_rehearsed(tmp_path: Path, method: str) -> None:
    run = _built(tmp_path, method=method)
    done = _multitask("rehearse", run.root, "--nodes", 1, "--procs", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rehearsal]:
    """Rehearse with two ranks that are forks of this worker's warm process."""
    monkeypatch.setattr(module, "Forkserver", WarmForks)
    return lambda run, **wishes: module.rehearse(run, nodes=1, procs=2, **wishes)


@pytest.mark.slow
def test_a_wrong_layer_class_is_caught(tmp_path: Path, rehearsed: Callable[..., Rehearsal]) -> None:
    run = _built(tmp_path)
    text = run.axolotl.read_text().replace("LlamaDecoderLayer", "MistralDecoderLayer")
    run.axolotl.write_text(text)
    result = rehearsed(run, undisturbed_only=True)
    failed = [check.answer for check in result.checks.checks if not check.passed]
    assert "MistralDecoderLayer" in str(failed)
    assert not result.checks.passed


@pytest.mark.slow
def test_deepspeed_is_rehearsed_and_resumes(
    tmp_path: Path, rehearsed: Callable[..., Rehearsal]
) -> None:
    run = _built(tmp_path, sharding="zero2")
    result = rehearsed(run)
    assert result.checks.passed, [check for check in result.checks.checks if not check.passed]
    saved = run.root / "rehearsal/undisturbed/model"
    assert list(saved.glob("checkpoint-*/global_step*/*zero_pp_rank_1*optim_states.pt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"sharding": "zero3", "method": "full"},
        {"sharding": "zero2", "cpu_offload": True},
        {"sharding": "fsdp", "cpu_offload": True},
        {"sharding": "ddp"},
    ],
    ids=["zero3-full", "zero2-offload", "fsdp-offload", "ddp"],
)
def test_other_shardings_are_rehearsed(tmp_path: Path, changes: dict[str, object]) -> None:
    run = _built(tmp_path, **changes)
    done = _multitask("rehearse", run.root, "--nodes", 1, "--procs", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_hsdp_keeps_a_copy_on_each_node(tmp_path: Path) -> None:
    run = _built(tmp_path, sharding="hsdp")
    done = _multitask("rehearse", run.root, "--nodes", 2, "--procs", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    config = yaml.safe_load((run.root / "rehearsal/undisturbed/axolotl.yaml").read_text())
    assert (config["dp_replicate_size"], config["dp_shard_size"]) == (2, 2)


def test_a_cut_link_needs_links(tmp_path: Path) -> None:
    run = _built(tmp_path)
    done = _multitask("rehearse", run.root, "--partition", "node:1@step:2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--netns" in done.stderr


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGKILL], id="killed"),
        pytest.param([signal.SIGINT, signal.SIGINT], id="ctrl-c-twice", marks=pytest.mark.slow),
    ],
)
def test_nothing_outlives_a_rehearsal_that_is_ended(
    tmp_path: Path, signals: list[signal.Signals]
) -> None:
    run = _built(tmp_path)
    command = [sys.executable, "-m", "multitask", "rehearse", str(run.root), "--procs", "2"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ) | {"HF_HUB_OFFLINE": "1"},
        start_new_session=True,
    )
    events = run.root / "rehearsal/undisturbed/logs/trainer.jsonl"
    assert _within(900, lambda: events.exists() or process.poll() is not None)
    assert process.poll() is None
    assert len(_processes_of(tmp_path)) > 6  # supervisors, clients, agents and ranks
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    process.wait(300)
    assert _within(120, lambda: not _processes_of(tmp_path)), _processes_of(tmp_path)


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return condition()


def _processes_of(folder: Path) -> list[str]:
    """Command lines of processes that have to do with a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if str(folder).encode() in line:
                    found.append(line.split(b"\0MULTITASK")[0][:200].decode(errors="replace"))
    return found
