"""A fake RunPod, runs to rent machines for, and a driver of ``up``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from multitask.build import build_config
from multitask.runpod import api
from multitask.runpod.client import RunPod
from multitask.runpod.offers import Offer
from multitask.runpod.options import Options, Timing
from multitask.runpod.record import Record, RecordFile
from multitask.runpod.signals import Signals
from multitask.runpod.up import Outcome, Surroundings, up
from multitask.spec import Spec, load_spec
from tests.runpod.fake import KEY, FakePod, FakeRunPod, fake_runpod
from tests.runpod.machine import SmallMachine

FAST = Timing(
    ready=20.0,
    poll=0.02,
    events=0.05,
    platform=0.1,
    lost_client=900.0,
    silence=0.6,
    stop=10.0,
    gone=3.0,
)


def sample_spec(cluster: str) -> Spec:
    return Spec.model_validate(
        {
            "model": "Qwen/Qwen2.5-7B-Instruct",
            "tasks": ["banking77"],
            "sample": True,
            "cluster": cluster,
            "leakage": {"near_duplicates": False},
        }
    )


@pytest.fixture(scope="session")
def built_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds a run for a shape once a session."""
    folder = tmp_path_factory.mktemp("runs")

    def build(shape: str) -> Path:
        if not (folder / shape).exists():
            build_config(sample_spec(shape), folder / shape, validate=False)
        return folder / shape

    return build


@dataclass
class Fleet:
    """The machines that a test's fake has started.

    Attributes:
        settings: Keyword arguments of each machine to come.
        made: Node 0 of each rental, in order.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    made: list[SmallMachine] = field(default_factory=list)

    def hook(self, pod: FakePod) -> SmallMachine | None:
        if pod.rank not in (None, 0):
            return None
        self.made.append(SmallMachine(pod, **self.settings))
        return self.made[-1]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def fake(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRunPod]:
    with fake_runpod(fleet.hook) as service:
        monkeypatch.setenv(api.URL_ENV, f"{service.url}/v2")
        monkeypatch.setenv(api.PROXY_ENV, service.url + "/proxy/{pod}/{port}")
        monkeypatch.setenv(api.KEY_ENV, KEY)
        yield service


class Driver:
    """Calls ``up`` for a built run as the command line does."""

    def __init__(self, run: Path, fake: FakeRunPod) -> None:
        self.run, self.fake = run, fake
        self.volume = fake.add_volume()
        self.said: list[str] = []
        self.asked: list[list[Offer]] = []
        self.agree = True
        self.signals = Signals()
        self.on_status: Callable[[Any], None] = lambda _status: None

    def options(self, **changes: Any) -> Options:
        usual = Options("owner/image:1", (load_spec(self.run).cluster,), volume=self.volume)
        return replace(usual, **{"timing": FAST, **changes})

    def up(self, **changes: Any) -> Outcome:
        with RunPod(pause=self.signals.pause, backoff=0.01) as service:
            around = Surroundings(
                service,
                self._ask,
                self.said.append,
                lambda _record: self,
                lambda *_: None,
                self.signals,
            )
            return up(load_spec(self.run), self.run, self.options(**changes), around)

    @property
    def record(self) -> Record:
        record = RecordFile(self.run).read()
        assert record is not None
        return record

    def _ask(self, found: list[Offer]) -> bool:
        self.asked.append(found)
        return self.agree

    # what ``up`` shows a job with

    def status(self, status: Any) -> None:
        self.on_status(status)

    def event(self, event: Any) -> None:
        self.said.append(str(event))

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def drive(
    built_runs: Callable[[str], Path], fake: FakeRunPod, tmp_path: Path
) -> Callable[..., Driver]:
    """A driver for a fresh copy of a run built for a shape."""

    def make(shape: str = "3x4-a100-80gb") -> Driver:
        target = tmp_path / "runs" / "first"
        shutil.copytree(built_runs(shape), target)
        return Driver(target, fake)

    return make
