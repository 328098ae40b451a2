"""Three real machines train a real model: the image's own command, Axolotl, FSDP2 on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from multitask.build import build_config
from multitask.rehearsal.adapt import Sizes
from multitask.rehearsal.deploy import stage_for_machines
from multitask.spec import CheckpointSpec, Spec
from tests.machine.conftest import CLUSTER, Machines
from tests.machine.platform_api import PlatformApi

TASKS = ("text_claims", "banking77", "commonsense_qa")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a 3x4 run that was made small enough for CPUs."""
    folder = tmp_path_factory.mktemp("staged")
    spec = Spec(
        model="meta-llama/Llama-3.1-8B-Instruct",
        tasks=TASKS,
        cluster="3x4-a100-80gb",
        sample=True,
        checkpoint=CheckpointSpec(keep=2),
    )
    built = build_config(spec, folder / "run", validate=False)
    stage_for_machines(built.run, folder / "small", nodes=3, procs=1, sizes=Sizes(steps=8))
    root = folder / "small"
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.train
@pytest.mark.slow  # tests/runpod/test_end_to_end.py goes the same way, with the client's side too
def test_a_node_dies_and_the_run_is_trained_evaluated_and_torn_down(
    machines: Callable[..., Machines], api: PlatformApi, files: dict[str, bytes]
) -> None:
    job = machines(nodes=3, files=files, command=("-m", "multitask.machine"))
    job.client.patience = 900.0
    job.start_all(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    job.client.start(files)
    job.client.await_step(3)
    job.kill(2)
    job.start(2, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    status = job.client.await_phase("done")
    assert status["step"] == status["steps"] == 8
    assert status["restarts"] >= 1
    assert set(status["tasks"]) == set(TASKS)
    results = job.client.ask("GET", "/files/evaluation/trained/results.json").json()
    assert set(results["tasks"]) == set(TASKS)
    assert job.client.ask("GET", "/files/report.html").status_code == 200
    job.client.ask("POST", "/release")
    assert job.wait(0) == 0
    assert api.deleted == [f"clusters/{CLUSTER}"]
    orders = json.loads((Path(job.run) / "machine" / "order.json").read_text())
    assert orders["action"] == "end"
