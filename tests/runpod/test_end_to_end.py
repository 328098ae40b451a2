"""The whole way: the client, the fake service, three real machines, a real training on the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multitask.build import build_config
from multitask.rehearsal.adapt import Sizes
from multitask.rehearsal.deploy import stage_for_machines
from multitask.runpod import api
from multitask.spec import CheckpointSpec, Spec
from tests.runpod.conftest import FAST, Driver
from tests.runpod.fake import KEY, FakePod, FakeRunPod, fake_runpod
from tests.runpod.processes import ProcessMachine, free_port

TASKS = ("text_claims", "banking77", "commonsense_qa")
PATIENT = replace(FAST, ready=120.0, poll=0.2, events=0.5, platform=1.0, silence=120.0, gone=60.0)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 3x4 run, made small enough for CPUs."""
    pytest.importorskip("axolotl")
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
    return folder / "small"


@pytest.fixture
def machines() -> dict[int, ProcessMachine]:
    return {}


@pytest.fixture
def service(
    machines: dict[int, ProcessMachine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeRunPod]:
    meeting_port = free_port()

    def start(pod: FakePod) -> ProcessMachine:
        assert pod.rank is not None
        machines[pod.rank] = ProcessMachine(pod, tmp_path, meeting_port)
        return machines[pod.rank]

    with fake_runpod(start) as fake:
        monkeypatch.setenv(api.URL_ENV, f"{fake.url}/v2")
        monkeypatch.setenv(api.PROXY_ENV, fake.url + "/proxy/{pod}/{port}")
        monkeypatch.setenv(api.KEY_ENV, KEY)
        yield fake


@pytest.mark.train
def test_a_machine_dies_and_the_run_is_trained_evaluated_fetched_and_torn_down(
    service: FakeRunPod, machines: dict[int, ProcessMachine], staged: Path
) -> None:
    driver = Driver(staged, service)
    crashed = []

    def on_status(status: Any) -> None:
        if status["phase"] == "training" and status["step"] >= 3 and not crashed:
            crashed.append(status["step"])
            machines[2].crash()

    driver.on_status = on_status
    outcome = driver.up(timing=PATIENT, env={"HF_TOKEN": "none"}, download_model=True)
    assert outcome.ending is not None
    assert outcome.ending.phase == "done"
    assert crashed
    results = json.loads((staged / "evaluation" / "trained" / "results.json").read_text())
    assert set(results["tasks"]) == set(TASKS)
    assert (staged / "report.html").is_file()
    assert list((staged / "model").glob("*.safetensors"))
    assert any("'kind': 'restart'" in line for line in driver.said)
    assert len(service.ledger) == 3
    assert service.billing == []
