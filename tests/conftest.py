"""What the tests share: real data where it is, and spec and run factories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from multitask.run import Run
from multitask.spec import Spec

os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A busy machine is no failure.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

_REAL_DATA = Path(
    os.environ.get("MULTITASK_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
).resolve()


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

    folder = tmp_path_factory.mktemp("models") / "toy"
    texts = ["where is my card?", "card_arrival", "lost card", "d_arrival"] * 5
    write_toy_model(folder, texts, size=ToySize(hidden=32, layers=2, heads=4, vocabulary=400))
    return folder


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
    return trained_run(spec, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def trained_copy(trained: Run, tmp_path: Path) -> Run:
    """A copy of the trained run, to be evaluated or broken."""
    shutil.copytree(trained.root, tmp_path / "run")
    return Run(tmp_path / "run")
