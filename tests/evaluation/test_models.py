"""The best checkpoint, one by its step, and the last model, evaluated and told apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from torch.distributed import checkpoint as dcp

from multitask.checkpoints import MARKER
from multitask.checkpoints.consolidate import loaded_files
from multitask.errors import InputError
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.models import choose, consolidate
from multitask.evaluation.requests import Settings
from multitask.hub.card import own_evaluations
from multitask.run import Run
from tests.checkpoints.conftest import mark

QUICK = Settings(calibration="none", baselines=False, generate=0, option_texts=False)


def quiet(_: str) -> None:
    pass


@pytest.fixture
def run(trained_copy: Run) -> Run:
    """Checkpoints of two steps: the second is the last model, the first has other weights."""
    weights = load_file(trained_copy.model / "model.safetensors")
    rows = []
    for step, factor, score in ((3, 0.9, 0.8), (6, 1.0, 0.6)):
        folder = trained_copy.model / f"checkpoint-{step}"
        folder.mkdir()
        for path in loaded_files(trained_copy.model):
            shutil.copy(path, folder)
        changed = {name: factor * tensor for name, tensor in weights.items()}
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        mark(folder)
        rows.append({"step": step, "eval/score": score})
    trained_copy.logs.mkdir(exist_ok=True)
    trained_copy.evaluation_log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = {"checkpoint": "checkpoint-3", "score": 0.8}
    (trained_copy.model / "best.json").write_text(json.dumps(best))
    return trained_copy


def shard(folder: Path) -> None:
    """As FSDP2 saves it: torch's distributed checkpoint, without a tokenizer."""
    weights = load_file(folder / "model.safetensors")
    writer = dcp.FileSystemWriter(folder / "pytorch_model_fsdp_0")
    dcp.save({"model": weights}, storage_writer=writer, no_dist=True)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    mark(folder)


def test_the_best_is_evaluated_and_the_report_says_what_the_other_had(run: Run) -> None:
    last = evaluate(run, settings=QUICK, limit=4).results
    assert last["notes"][0] == (
        "this is the last model, with a validation score of 0.600 at step 6; checkpoint-3, the "
        "best, had 0.800 (`--checkpoint best` uses it)"
    )
    best = evaluate(run, settings=QUICK, limit=4, checkpoint="best")
    assert best.directory.name == "checkpoint-3"
    assert best.results["model"] == str(run.model / "checkpoint-3")
    assert best.results["notes"][0].startswith(
        "this is checkpoint-3, the best, with a validation score of 0.800; the last evaluation, "
        "at step 6, had 0.600"
    )
    assert best.results["key"]["model"] != last["key"]["model"]
    names = {
        folder: [found["name"] for found in own_evaluations(run, folder)[0]]
        for folder in (run.model, run.model / "checkpoint-3")
    }
    assert list(names.values()) == [["trained"], ["checkpoint-3"]]


def test_the_spec_can_ask_for_the_best(run: Run) -> None:
    spec = run.spec.read_text()
    assert choose(run, None).name == "last"
    assert "  use: last" in spec
    run.spec.write_text(spec.replace("  use: last", "  use: best"))
    assert choose(run, None).name == "checkpoint-3"
    assert choose(run, "last").folder == run.model
    assert choose(run, "6").name == "checkpoint-6"


def test_shards_are_gathered_once(run: Run) -> None:
    expected = load_file(run.model / "checkpoint-3" / "model.safetensors")
    shard(run.model / "checkpoint-3")
    said: list[str] = []
    choice = choose(run, "best")
    assert choice.folder == run.root / "consolidated" / "checkpoint-3"
    for _ in range(2):
        folder = consolidate(run, choice, said.append)
    assert len(said) == 1
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {path.name for path in loaded_files(folder)} == {
        path.name for path in loaded_files(run.model)
    }


def test_an_adapter_gets_the_tokenizer_of_the_training(run: Run) -> None:
    folder = run.model / "checkpoint-3"
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    for path in folder.iterdir():
        if "token" in path.name or "template" in path.name or path.name == MARKER:
            path.unlink()
    (folder / "optimizer.pt").write_bytes(b"state")
    mark(folder)
    made = consolidate(run, choose(run, "3"), quiet)
    names = {path.name for path in made.iterdir()}
    assert {"adapter_model.safetensors", "tokenizer_config.json"} <= names
    assert "model.safetensors" not in names
    assert "optimizer.pt" not in names


def test_what_is_not_there_is_refused_with_what_is(run: Run) -> None:
    with pytest.raises(InputError, match=r"checkpoint-5 is not there[\s\S]*one of: 3, 6"):
        choose(run, "5")
    (run.model / "checkpoint-3" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"checkpoint-3 is torn: model\.safetensors is missing"):
        choose(run, "best")
    (run.model / "best.json").unlink()
    with pytest.raises(InputError, match="no checkpoint is known as the best"):
        choose(run, "best")
    with pytest.raises(InputError, match="exclude each other"):
        evaluate(run, model="x", checkpoint="best")
