"""What the tests share: real data where it is, spec and run factories, one Axolotl validator.

Several workers may run tests side by side (pytest-xdist): what is expensive is made by the first
that needs it, and read by all.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import HealthCheck, settings

from multitask.run import Run
from multitask.runners.axolotl.validate import AxolotlValidator
from multitask.spec import Spec

os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A busy machine is no failure.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

_REAL_DATA = Path(
    os.environ.get("MULTITASK_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
).resolve()


# The same few examples each time, however busy the machine is; many and new ones with
# `pytest --hypothesis-profile whole`.
_ANY_TIME: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("usual", max_examples=40, derandomize=True, **_ANY_TIME)
settings.register_profile("whole", max_examples=500, **_ANY_TIME)
settings.load_profile("usual")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, so that no worker has one left at the end."""
    training = {item.path for item in items if item.get_closest_marker("train")}
    for item in items:
        names = {item.path.parent.name, item.path.stem}
        if names & _LONG or "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: (item.path not in training, "long" not in item.keywords))


# Folders and files that take longest, beside those that train; `make test-fast` leaves them out.
_LONG = {
    "docker", "doctor", "evaluation", "fuzz", "hub", "models", "rehearsal", "runners", "scoring",
    "transfer", "test_browser", "test_checkpoints", "test_choice", "test_cli", "test_guard",
    "test_lm_eval", "test_nodes", "test_prepare", "test_probability", "test_quiet", "test_sources",
    "test_supervisor", "test_wheel",
}  # fmt: skip


_OWN = (AxolotlValidator.__init__, AxolotlValidator.close)


@pytest.fixture
def own_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a test's validators be processes of their own, as everywhere but in tests."""
    monkeypatch.setattr(AxolotlValidator, "__init__", _OWN[0])
    monkeypatch.setattr(AxolotlValidator, "close", _OWN[1])


@pytest.fixture(scope="session", autouse=True)
def _one_validator() -> Iterator[None]:
    """Let all builds of a worker ask one process of Axolotl's validator: its import is long."""
    start, close = _OWN
    running: list[AxolotlValidator] = []

    def share(self: AxolotlValidator) -> None:
        if not running or running[0]._process.poll() is not None:
            validator = AxolotlValidator.__new__(AxolotlValidator)
            start(validator)
            running[:] = [validator]
        self.__dict__ = running[0].__dict__

    AxolotlValidator.__init__ = share  # type: ignore[method-assign]
    AxolotlValidator.close = lambda self: None  # type: ignore[method-assign]
    yield
    AxolotlValidator.__init__, AxolotlValidator.close = start, close  # type: ignore[method-assign]
    for validator in running:
        validator.close()


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first worker makes, and that all of a test run read.

    Args:
        factory: Of the test run.
        name: The folder's.
        make: Makes it; whoever comes meanwhile waits.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = shared / name, shared / f"{name}.made"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real banking77 and commonsense_qa."""
    if not (_REAL_DATA / "banking77" / "train.csv").is_file():
        pytest.skip(f"the real datasets are not at {_REAL_DATA} (set MULTITASK_TEST_DATA)")
    return _REAL_DATA


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """Write a spec file; keyword arguments replace keys of a small valid one, None removes."""

    def write(**changes: Any) -> Path:
        content: dict[str, Any] = {
            "model": "owner/model",
            "tasks": ["text_claims", "banking77", "commonsense_qa"],
            "cluster": "cpu",
            "method": "full",
            "sample": True,
        }
        content |= changes
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
        return path

    return write


@pytest.fixture
def sample_spec() -> Spec:
    """A valid spec over the embedded sample."""
    return Spec(
        model="owner/model",
        tasks=("text_claims", "banking77", "commonsense_qa"),
        cluster="cpu",
        method="full",
        sample=True,
    )


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a tokenizer of its own."""
    pytest.importorskip("torch")
    from multitask.toy import ToySize, write_toy_model

    texts = ["where is my card?", "card_arrival", "lost card", "d_arrival"] * 5
    size = ToySize(hidden=32, layers=2, heads=4, vocabulary=400)
    return once(tmp_path_factory, "toy", lambda at: write_toy_model(at, texts, size=size))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over the sample with a toy model that has been trained a little; do not change it."""
    pytest.importorskip("torch")
    from tests.trained import trained_run

    spec = Spec(
        model="base",
        tasks=("text_claims", "banking77", "commonsense_qa"),
        cluster="cpu",
        method="full",
        sample=True,
    )
    return Run(once(tmp_path_factory, "trained", lambda folder: trained_run(spec, folder)))


@pytest.fixture
def trained_copy(trained: Run, tmp_path: Path) -> Run:
    """A copy of the trained run, to be evaluated or broken."""
    shutil.copytree(trained.root, tmp_path / "run")
    return Run(tmp_path / "run")
