"""New machines for a job whose files are on the volume: what ended on others goes on here."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from multitask.machine import protocol
from tests.machine.conftest import Machines

Make = Callable[..., Machines]


def rent_again(job: Machines) -> None:
    """Machines of another rental: the same job and volume, another token."""
    job.processes[0].kill()
    job.processes[0].wait()
    job.client.token = secrets.token_urlsafe(32)
    job.start_all()


def test_a_stopped_job_is_started_again_on_new_machines(machines: Make) -> None:
    job = machines()
    job.start_all()
    job.client.ask("POST", "/stop", json={"reason": "enough"})
    job.client.await_phase("stopped")
    rent_again(job)
    status = job.client.status()
    assert status["phase"] == "waiting"
    assert status["error"] is None
    job.client.start()
    job.client.await_phase("done")


def test_a_job_that_is_done_gives_its_results_to_new_machines_client(machines: Make) -> None:
    job = machines()
    job.environ = {protocol.ENV_GRACE: "60"}
    job.start_all()
    job.client.start()
    job.client.await_phase("done")
    rent_again(job)
    assert job.client.status()["phase"] == "done"
    assert job.client.ask("GET", "/files/axolotl.yaml").status_code == 200


def test_a_restarted_container_does_not_begin_a_stopped_job_anew(machines: Make) -> None:
    job = machines()
    job.start_all()
    job.client.ask("POST", "/stop", json={"reason": "enough"})
    job.client.await_phase("stopped")
    job.processes[0].kill()
    job.processes[0].wait()
    job.start_all()
    assert job.client.status()["phase"] == "stopped"
