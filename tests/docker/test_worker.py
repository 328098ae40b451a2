"""The serverless worker: RunPod's own SDK in the environment that the Dockerfile makes for it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multitask.checkpoints import newest_complete
from multitask.training.process import end_processes
from tests.docker.conftest import Image
from tests.docker.dockerfile import ROOT
from tests.docker.serverless_platform import ServerlessPlatform, serverless_platform

FAKE = ROOT / "tests" / "support" / "fake_multitask.py"
SPEC: dict[str, Any] = {"model": "owner/model", "tasks": ["banking77"], "cluster": "cpu"}
PATIENCE = 120.0


class Worker:
    """A worker's process with its platform and volume."""

    def __init__(self, image: Image, platform: ServerlessPlatform, folder: Path) -> None:
        self.platform, self.volume = platform, folder / "volume"
        self._image, self._folder = image, folder
        self._mark = secrets.token_hex(8)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, python: Path | None = None, **environ: str) -> None:
        interpreter = self._folder / "python"
        target = f"{sys.executable} {FAKE}" if python is None else str(python)
        interpreter.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {target} "$@"\n')
        interpreter.chmod(0o755)
        self.process = subprocess.Popen(
            [self._image.worker, "-m", "multitask.machine", "serve"],
            cwd=self._folder,
            stdout=(self._folder / "worker.txt").open("wb"),
            stderr=subprocess.STDOUT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                "MULTITASK_ROLE": "serverless",
                "MULTITASK_VOLUME": str(self.volume),
                "MULTITASK_PYTHON": str(interpreter),
                "MULTITASK_TEST_MARK": self._mark,
                "AXOLOTL_DO_NOT_TRACK": "1",
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                **self.platform.environment(),
                **environ,
            },
        )

    def send(self, name: str, **given: Any) -> None:
        self.platform.jobs.append({"id": name, "input": given})

    def await_that(self, condition: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, self.log()
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)

    def result(self, name: str) -> dict[str, Any]:
        self.await_that(lambda: name in self.platform.done)
        return self.platform.done[name]

    def run(self, name: str) -> Path:
        return self.volume / "runs" / name

    def log(self) -> str:
        return (self._folder / "worker.txt").read_text(errors="replace")[-6000:]

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        end_processes("MULTITASK_TEST_MARK", self._mark, patience=0)


@pytest.fixture
def worker(image: Image, tmp_path: Path) -> Iterator[Worker]:
    with serverless_platform() as platform:
        made = Worker(image, platform, tmp_path)
        yield made
        made.close()


def _phases(updates: list[dict[str, Any]]) -> list[str]:
    return [update["phase"] for update in updates if "phase" in update]


def test_a_job_streams_its_progress_and_ends_with_its_evaluation(worker: Worker) -> None:
    worker.start()
    worker.send("one", spec=SPEC, run_id="first")
    output = worker.result("one")["output"]
    assert _phases(output) == ["building", "training", "evaluating", "reporting", "done"]
    assert output[-1]["evaluations"] == {"trained": {"tasks": {"banking77": {"n": 1}}}}
    assert output[-1]["model"] == str(worker.run("first") / "model")
    assert worker.platform.streamed["one"] == output


def test_a_command_that_fails_fails_the_job_with_its_message(worker: Worker) -> None:
    worker.start()
    worker.send("one", spec={**SPEC, "name": "broken"})
    done = worker.result("one")
    assert "evaluating failed with exit code 7: the model does not load" in done["error"]
    assert "output" not in done


def test_an_input_that_is_refused_fails_the_job_and_starts_nothing(worker: Worker) -> None:
    worker.start()
    worker.send("one", spec={**SPEC, "axolotl": {"plugins": ["os"]}})
    assert "a job may not set 'plugins'" in worker.result("one")["error"]
    worker.send("two", spec={**SPEC, "lerning_rate": 1})
    assert "did you mean 'learning_rate'" in worker.result("two")["error"]
    assert not any(path.is_dir() and path.suffix == "" for path in worker.volume.glob("runs/*"))


def test_a_job_for_other_gpus_is_refused(worker: Worker) -> None:
    worker.start()
    worker.send("one", spec={**SPEC, "cluster": "1x8-a100-80gb"})
    assert "this worker 0 GPUs" in worker.result("one")["error"]


def test_a_cancelled_job_saves_a_checkpoint_and_goes_on_when_sent_again(worker: Worker) -> None:
    worker.start(FAKE_STEP_SECONDS="0.5")
    worker.send("one", spec=SPEC, run_id="first")
    events = worker.run("first") / "logs" / "trainer.jsonl"
    worker.await_that(lambda: events.exists() and '"step": 2' in events.read_text())
    worker.platform.stop.append("one")
    model = worker.run("first") / "model"
    worker.await_that(lambda: newest_complete(model))
    worker.send("two", spec=SPEC, run_id="first")
    assert _phases(worker.result("two")["output"])[-1] == "done"
    log = (worker.run("first.machine") / "log.txt").read_text()
    assert "the job was cancelled" in log
    assert "going on from checkpoint-" in log


def test_a_worker_that_is_ended_saves_first(worker: Worker) -> None:
    worker.start(FAKE_STEP_SECONDS="0.5")
    worker.send("one", spec=SPEC, run_id="first")
    events = worker.run("first") / "logs" / "trainer.jsonl"
    worker.await_that(lambda: events.exists() and '"step": 2' in events.read_text())
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(timeout=PATIENCE)
    assert "a checkpoint was saved" in worker.platform.done["one"]["error"]
    assert newest_complete(worker.run("first") / "model") is not None


def test_the_time_of_a_job_is_limited(worker: Worker) -> None:
    worker.start(FAKE_STEP_SECONDS="10")
    worker.send("one", spec=SPEC, max_hours=0.002)  # 7 s; the training takes 120
    assert "the limit of 0.002 hours is reached" in worker.result("one")["error"]


@pytest.mark.train
def test_a_real_job_trains_and_evaluates_on_the_cpu(worker: Worker, toy: Path) -> None:
    model = worker.volume / "models" / "toy"
    model.parent.mkdir(parents=True)
    subprocess.run(["cp", "-r", str(toy), str(model)], check=True)
    worker.start(python=Path(sys.executable))
    spec = {
        "model": str(model),
        "tasks": ["text_claims", "banking77", "commonsense_qa"],
        "cluster": "cpu",
        "method": "full",
        "sample": True,
        "sequence_len": 256,
        "epochs": 1,
        "axolotl": {"max_steps": 4},
    }
    worker.send("one", spec=spec, run_id="real")
    until = time.monotonic() + 480
    while "one" not in worker.platform.done:
        assert time.monotonic() < until, worker.log()
        time.sleep(0.5)
    done = worker.platform.done["one"]
    assert "error" not in done, done
    result = done["output"][-1]
    assert set(result["evaluations"]["trained"]["tasks"]) == set(spec["tasks"])
    assert any(update.get("kind") == "metrics" for update in done["output"])
