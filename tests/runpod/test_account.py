"""``ls``, ``status``, ``logs``, ``down`` and ``plan``, as commands of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runpod.conftest import Driver, Fleet, sample_spec
from tests.runpod.fake import KEY, FakeRunPod

Drive = Callable[..., Driver]


def multitask(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "multitask", "runpod", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def detached(drive: Drive, fleet: Fleet) -> Driver:
    fleet.settings = {"hold": True}
    driver = drive()
    driver.up(detach=True)
    return driver


@pytest.mark.parametrize("command", ["plan", "up", "status", "logs", "down", "ls"])
def test_every_command_shows_an_example(command: str, tmp_path: Path) -> None:
    done = multitask(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Example: multitask runpod {command}" in " ".join(done.stdout.split())


def test_nothing_is_billing_is_said_in_so_many_words(fake: FakeRunPod, tmp_path: Path) -> None:
    done = multitask("ls", cwd=tmp_path)
    assert done.stdout == "nothing is billing\n"


def test_ls_shows_what_is_billed(detached: Driver, tmp_path: Path) -> None:
    done = multitask("ls", cwd=tmp_path)
    assert detached.record.name in done.stdout
    assert "3 x 4 NVIDIA A100-SXM4-80GB" in done.stdout
    assert "$16.68 an hour" in done.stdout


def test_ls_leaves_out_what_is_not_ours(fake: FakeRunPod, tmp_path: Path) -> None:
    body: dict[str, Any] = {
        "name": "somebody-else",
        "image": "x",
        "gpu": {"id": "NVIDIA H200", "count": 1},
    }
    fake.handle("POST", "/pods", {}, body)
    assert multitask("ls", cwd=tmp_path).stdout == "nothing is billing\n"


def test_ls_knows_what_a_record_knows_under_another_name(
    detached: Driver, fake: FakeRunPod, tmp_path: Path
) -> None:
    fake.clusters[detached.record.id].name = "renamed"
    assert "renamed" in multitask("ls", cwd=tmp_path).stdout


def test_down_removes_a_run_s_machines(detached: Driver, fake: FakeRunPod, tmp_path: Path) -> None:
    done = multitask("down", detached.run, cwd=tmp_path)
    assert done.stdout == f"{detached.record.name} is gone\n"
    assert fake.billing == []
    assert detached.record.state == "gone"


def test_down_takes_a_name(detached: Driver, fake: FakeRunPod, tmp_path: Path) -> None:
    multitask("down", detached.record.name, cwd=tmp_path)
    assert fake.billing == []


def test_down_all_leaves_others_machines_alone(
    detached: Driver, fake: FakeRunPod, tmp_path: Path
) -> None:
    body: dict[str, Any] = {"name": "other", "image": "x", "gpu": {"id": "NVIDIA H200", "count": 1}}
    fake.handle("POST", "/pods", {}, body)
    multitask("down", "--all", cwd=tmp_path)
    assert [entry.name for entry in fake.billing] == ["other"]


def test_down_twice_says_that_nothing_was_there(detached: Driver, tmp_path: Path) -> None:
    multitask("down", detached.run, cwd=tmp_path)
    done = multitask("down", detached.run, cwd=tmp_path)
    assert "nothing is billed for it" in done.stdout


def test_status_shows_machines_and_job(detached: Driver, tmp_path: Path) -> None:
    done = multitask("status", detached.run, cwd=tmp_path)
    assert "3 RUNNING, $16.68/h" in done.stdout
    assert "the job: training, step 0 of 5" in done.stdout


def test_status_of_a_finished_run_says_that_nothing_is_billed(drive: Drive, tmp_path: Path) -> None:
    driver = drive()
    driver.up()
    done = multitask("status", driver.run, cwd=tmp_path)
    assert "nothing is billed (the job: done)" in done.stdout


def test_logs_follow_the_job_to_its_end(detached: Driver, fleet: Fleet, tmp_path: Path) -> None:
    fleet.made[0].hold.clear()
    done = multitask("logs", "-f", detached.run, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "step 4"


def test_plan_shows_the_fall_backs_and_rents_nothing(fake: FakeRunPod, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(sample_spec("3x4-a100-80gb").model_dump(mode="json")))
    done = multitask("plan", spec, cwd=tmp_path)
    assert done.returncode == 0
    order = [done.stderr.index(shape) for shape in ("3x4-a100", "2x8-a100", "1x8-a100")]
    assert order == sorted(order)
    assert "RunPod's catalogue, today" in done.stderr
    assert fake.ledger == []
    assert not (tmp_path / "runs").exists()


def test_up_without_an_image_says_how_to_get_one(fake: FakeRunPod, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(sample_spec("1x8-a100-80gb").model_dump(mode="json")))
    done = multitask("up", spec, cwd=tmp_path)
    assert done.returncode == 2
    assert "MULTITASK_IMAGE" in done.stderr


def _started(driver: Driver, fleet: Fleet, tmp_path: Path) -> subprocess.Popen[str]:
    fleet.settings = {"hold": True}
    command = [sys.executable, "-m", "multitask", "runpod", "up", str(driver.run), "--yes"]
    command += ["--volume", driver.volume, "--image", "x", "--shapes", "3x4-a100-80gb"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )
    while not (fleet.made and fleet.made[0].phase == "training"):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return process


def test_ctrl_c_saves_fetches_and_removes(
    drive: Drive, fake: FakeRunPod, fleet: Fleet, tmp_path: Path
) -> None:
    driver = drive()
    process = _started(driver, fleet, tmp_path)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130
    assert "saves a checkpoint" in out
    assert fleet.made[0].stopped
    assert fake.billing == []
    assert driver.record.state == "gone"
    assert KEY not in out


def test_a_killed_client_is_followed_by_a_second(
    drive: Drive, fake: FakeRunPod, fleet: Fleet, tmp_path: Path
) -> None:
    driver = drive()
    process = _started(driver, fleet, tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(fake.billing) == 3
    fleet.made[0].hold.clear()
    outcome = driver.up()
    assert outcome.ending is not None
    assert outcome.ending.phase == "done"
    assert len(fake.bodies) == 1
    assert fake.billing == []
