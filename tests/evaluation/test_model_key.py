"""An evaluation knows its model by content, wherever the run is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from multitask.evaluation import models as module
from multitask.evaluation.models import DIGESTS, model_key, store_digests

LARGE = 33 << 20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(b"weights")
        file.truncate(LARGE)
    return folder


def _copy(folder: Path, name: str) -> Path:
    """As `cp -r`: other times of change."""
    return Path(shutil.copytree(folder, folder.parent / name, copy_function=shutil.copyfile))


def _change(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"x")


def test_a_copy_is_the_same_model(model: Path) -> None:
    before = model_key(str(model))
    assert model_key(str(_copy(model, "copy"))) == before
    store_digests(model)
    assert model_key(str(model)) == before
    assert model_key(str(_copy(model, "later"))) == before


def test_what_training_noted_is_not_hashed_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_digests(model)
    hashed = []
    real = module.sha256
    monkeypatch.setattr(module, "sha256", lambda path: (hashed.append(path.name), real(path))[1])
    model_key(str(model))
    assert hashed == ["config.json"]


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("place", [0, LARGE - 1])
def test_other_weights_are_another_model(model: Path, noted: bool, place: int) -> None:
    if noted:
        store_digests(model)
    before = model_key(str(model))
    _change(model / "model.safetensors", place)
    assert model_key(str(model)) != before


def test_one_bit_anywhere_is_seen_where_nothing_was_noted(model: Path) -> None:
    before = model_key(str(model))
    _change(model / "model.safetensors", (1 << 20) + 7)
    assert model_key(str(model)) != before


def test_an_adapter_keeps_its_base_where_the_base_is_not(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (model / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "owner/base"})
    )
    snapshots = tmp_path / "cache" / "models--owner--base" / "snapshots"
    for commit in ("a" * 40, "b" * 40):
        (snapshots / commit).mkdir(parents=True)
        (snapshots / commit / "config.json").write_text("{}")
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    store_digests(model)
    before = model_key(str(model))
    (snapshots.parent / "refs" / "main").write_text("b" * 40)
    assert model_key(str(model)) != before, "another base is another model"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert model_key(str(model)) == before
    (model / DIGESTS).unlink()
    assert model_key(str(model)) != before
