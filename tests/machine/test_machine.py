"""Whole jobs: machines as processes, a client over HTTP, a platform that removes them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from multitask.checkpoints import newest_complete
from tests.machine.conftest import CLUSTER, FILES, Machines
from tests.machine.platform_api import PlatformApi

Make = Callable[..., Machines]

# Long enough that a training cannot end before a test has done something to it.
SLOW = {"FAKE_STEP_SECONDS": "0.5"}


def _kinds(job: Machines) -> list[str]:
    events = job.client.ask("GET", "/events", params={"from": 0}).json()["events"]
    return [event["kind"] for event in events]


def test_a_pod_trains_evaluates_and_removes_itself_when_released(
    machines: Make, api: PlatformApi
) -> None:
    job = machines()
    job.start_all()
    job.client.start()
    status = job.client.await_phase("done")
    assert (status["step"], status["steps"], status["exit_code"]) == (12, 12, 0)
    names = {f["path"] for f in job.client.ask("GET", "/files").json()["files"]}
    assert "evaluation/trained/results.json" in names
    assert api.deleted == []
    assert job.client.ask("POST", "/release").status_code == 202
    assert job.wait() == 0
    assert api.deleted == ["pods/pod-0"]


def test_three_nodes_train_together_and_node_0_removes_the_cluster(
    machines: Make, api: PlatformApi
) -> None:
    job = machines(nodes=3)
    job.start_all()
    job.client.start()
    assert job.client.await_phase("done")["nodes_ready"] == 3
    job.client.ask("POST", "/release")
    assert job.wait() == 0
    assert api.deleted == [f"clusters/{CLUSTER}"]


def test_a_node_that_is_killed_and_started_again_trains_on(machines: Make) -> None:
    job = machines(nodes=3)
    job.start_all(**SLOW)
    job.client.start()
    job.client.await_step(4)
    job.kill(2)
    job.start(2)
    status = job.client.await_phase("done")
    assert status["restarts"] >= 1
    assert "restart" in _kinds(job)


def test_node_0_started_again_goes_on_without_an_upload(machines: Make) -> None:
    job = machines(nodes=2)
    job.start_all(**SLOW)
    job.client.start()
    job.client.await_step(4)
    job.kill(0)
    job.start(0)
    job.client.await_health()
    status = job.client.await_phase("done")
    assert status["attempt"] >= 2
    assert status["events"] > 0


def test_nodes_without_a_common_volume_are_refused_before_training(
    machines: Make, tmp_path: Path
) -> None:
    job = machines(nodes=2, volumes={1: tmp_path / "another"})
    job.start_all(MULTITASK_TEST_CHECK_SECONDS="3")
    job.client.start()
    error = job.client.await_phase("failed")["error"]
    assert "node 1 cannot be seen from node 0" in error
    assert "network volume" in error
    assert not (job.run / "attempts").exists()


def test_a_node_whose_copy_of_the_bundle_differs_is_refused(machines: Make) -> None:
    job = machines()
    job.start_all()
    digest = job.client.upload(FILES)
    (job.run / "axolotl.yaml").write_bytes(FILES["axolotl.yaml"].replace(b"1", b"2"))
    job.client.ask("POST", "/start", json={"bundle_sha256": digest})
    error = job.client.await_phase("failed")["error"]
    assert "node 0 has 1 files that are missing or differ (axolotl.yaml)" in error


def test_a_lost_client_ends_in_a_checkpoint_and_removal(machines: Make, api: PlatformApi) -> None:
    job = machines()
    job.start_all(MULTITASK_LOST_CLIENT_SECONDS="5", MULTITASK_GRACE_SECONDS="1",
                  FAKE_STEP_SECONDS="1.5")  # fmt: skip
    job.client.start()
    job.client.await_step(1)
    assert job.wait() == 0
    assert api.deleted == ["pods/pod-0"]
    state = json.loads((job.run / "machine" / "state.json").read_text())
    assert state["phase"] == "stopped"
    assert "no request from the client" in state["error"]
    assert any((job.run / "model").glob("checkpoint-*"))


def test_the_cost_limit_removes_the_machine_whatever_its_client_does(
    machines: Make, api: PlatformApi
) -> None:
    job = machines()
    # 0.03 USD at 36 USD an hour are 3 seconds.
    job.start(MULTITASK_PRICE_PER_HOUR="36", MULTITASK_MAX_COST="0.03",
              MULTITASK_STARTED=str(time.time()))  # fmt: skip
    assert job.wait() == 0
    assert api.deleted == ["pods/pod-0"]
    assert "the cost limit of 0.03 USD is reached" in job.log()


def test_removal_is_tried_until_it_works(machines: Make, api: PlatformApi) -> None:
    api.failures = 2
    job = machines()
    job.start(MULTITASK_DEADLINE=str(time.time()))
    assert job.wait() == 0
    assert api.deleted == ["pods/pod-0"]
    assert "removal, try 2, failed" in job.log()


def test_a_failed_step_fails_the_job_with_its_message_and_exit_code(machines: Make) -> None:
    files = FILES | {"data/fail-evaluating": b""}
    job = machines(files=files)
    job.start_all()
    job.client.start(files)
    status = job.client.await_phase("failed")
    assert status["exit_code"] == 7
    assert "the model does not load" in status["error"]


def test_a_stop_saves_a_checkpoint_of_all_nodes(machines: Make) -> None:
    job = machines(nodes=2)
    job.start_all(**SLOW)
    job.client.start()
    job.client.await_step(2)
    assert job.client.ask("POST", "/stop", json={"reason": "enough"}).status_code == 202
    assert job.client.await_phase("stopped")["error"] == "enough"
    assert any((job.run / "model").glob("checkpoint-*"))


def test_a_container_that_is_stopped_saves_and_its_job_goes_on_later(machines: Make) -> None:
    job = machines()
    job.start_all(**SLOW)
    job.client.start()
    job.client.await_step(2)
    job.processes[0].send_signal(signal.SIGTERM)
    assert job.wait() == 143
    saved = newest_complete(job.run / "model")
    assert saved is not None
    job.start()
    job.client.await_health()
    assert job.client.await_phase("done")["attempt"] == 2
    assert f"going on from {saved.path.name}" in job.log()


def test_secrets_are_in_no_log(machines: Make) -> None:
    secret = "hf_0123456789abcdef"
    job = machines()
    job.start_all(HF_TOKEN=secret)
    job.client.start()
    job.client.await_phase("done")
    logs = job.log() + job.client.ask("GET", "/logs").text
    assert "phase: done" in logs
    assert job.client.token not in logs
    assert secret not in logs


def test_a_machine_of_another_bundle_does_not_touch_the_run(machines: Make) -> None:
    job = machines()
    job.start_all()
    job.client.start()
    job.client.await_phase("done")
    job.kill(0)
    job.files = FILES | {"axolotl.yaml": b"learning_rate: 9\n"}
    assert job.start().wait(timeout=60) == 2
    assert "holds the job of another bundle" in job.log()
    assert (job.run / "axolotl.yaml").read_bytes() == FILES["axolotl.yaml"]


def test_status_says_when_the_machine_ends_and_what_it_cost(machines: Make) -> None:
    job = machines()
    began = time.time() - 3600
    job.start_all(MULTITASK_PRICE_PER_HOUR="2", MULTITASK_MAX_COST="100",
                  MULTITASK_STARTED=str(began))  # fmt: skip
    status = job.client.status()
    assert status["cost_so_far"] >= 2.0
    assert abs(status["deadline"] - (began + 50 * 3600)) < 1
    assert status["phase"] == "waiting"
