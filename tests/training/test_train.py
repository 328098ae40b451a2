"""Real launches that end early, and what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multitask.checkpoints import newest_complete
from multitask.run import Run
from multitask.runners.axolotl.file import PLUGIN
from multitask.runners.axolotl.validate import axolotl_installed
from tests.toy_run import STEPS, build_toy_run, events, losses, toy_environment
from tests.warm import SUPPORT, multitask, warm_environment

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed"),
]


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    plugins = [PLUGIN, "kill_plugin.KillPlugin"]
    return build_toy_run(tmp_path_factory.mktemp("toy"), plugins=plugins, save_steps=1000)


def test_a_plugin_that_cannot_be_imported_ends_the_launch_before_its_first_step(
    toy_run: Run,
) -> None:
    """Axolotl logs the ImportError and would train on. A true launch: nothing in it is warm."""
    blocked = os.pathsep.join([str(SUPPORT / "no_plugin"), toy_environment()["PYTHONPATH"]])
    failed = multitask("train", toy_run.root, environment={"PYTHONPATH": blocked})
    assert failed.returncode == 1
    assert "Axolotl started without multitask's plugin" in failed.stderr
    assert not toy_run.trainer_events.exists()
    log = next(toy_run.logs.glob("train-*.log")).read_text()
    assert "Failed to load plugin" in log
    assert "train_runtime" not in log


def test_sigterm_saves_and_stops_a_real_training_and_resume_goes_on(
    toy_run: Run, tmp_path: Path
) -> None:
    """Between two saves of its own: this run never saves by itself."""
    waits = tmp_path / "waits"
    process = subprocess.Popen(
        [sys.executable, "-m", "multitask", "train", str(toy_run.root), "--resume"],
        stderr=subprocess.PIPE, text=True,
        env=warm_environment(KILL_POINT="stop@5", KILL_DONE=str(waits)),
    )  # fmt: skip
    while not waits.exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, output = process.communicate(timeout=600)
    newest = newest_complete(toy_run.model, contents=True)
    assert newest is not None
    assert 5 < newest.step < STEPS  # requests are looked for by time, not at every step
    assert process.returncode == 130
    assert f"stopped at step {newest.step}; {newest.path.name} is saved" in output
    assert events(toy_run)[-1]["event"] == "stopped"
    assert not (toy_run.model / "model.safetensors").exists()  # no half-trained final model
    resumed = multitask("train", toy_run.root, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert [e["step"] for e in events(toy_run) if e["event"] == "start"] == [0, newest.step]
    assert sorted(losses(toy_run)) == list(range(1, STEPS + 1))
    assert (toy_run.model / "model.safetensors").is_file()
