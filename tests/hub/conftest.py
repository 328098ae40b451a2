"""A Hub on loopback, and runs to push to it: a whole model, an adapter, shards."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multitask.checkpoints import Inputs, Marker, fingerprint, write_marker
from multitask.checkpoints.layout import list_files
from multitask.hub.push import Pushed, PushSettings, push
from multitask.run import Run
from tests.hub_upload_server import TOKEN, UploadHub, upload_hub

WANDB_KEY = "0123456789abcdef0123456789abcdef01234567"
AXOLOTL = f"""base_model: /home/someone/models/toy
wandb_project: claims
wandb_api_key: {WANDB_KEY}
special_tokens: {{pad_token: <|pad|>}}
datasets: [{{path: data/train.jsonl}}]
"""

Push = Callable[..., Pushed]


@pytest.fixture
def hub() -> Iterator[UploadHub]:
    with upload_hub() as served:
        yield served


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub use the network, and wait for nothing."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def push_to(hub: UploadHub, online: None, monkeypatch: pytest.MonkeyPatch) -> Push:
    """``push`` with a login, to the Hub on loopback."""
    from huggingface_hub import HfApi

    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def call(run: Run, repo: str = "alice/toy", **settings: Any) -> Pushed:
        return push(run, repo, PushSettings(**settings), api=HfApi(endpoint=hub.url, token=TOKEN))

    return call


@pytest.fixture(scope="session")
def evaluated(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The trained run, evaluated, with an Axolotl configuration that holds a secret."""
    from multitask.evaluation.evaluate import evaluate
    from multitask.evaluation.requests import Settings

    root = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained.root, root)
    run = Run(root)
    evaluate(run, settings=Settings(generate=5))
    run.axolotl.write_text(AXOLOTL)
    return run


@pytest.fixture
def run(evaluated: Run, tmp_path: Path) -> Run:
    """A copy to push from."""
    shutil.copytree(evaluated.root, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def adapter_run(run: Run) -> Run:
    """The run with a LoRA adapter of its base in place of the model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    (run.model / "model.safetensors").unlink()
    base = AutoModelForCausalLM.from_pretrained(run.root / "base")
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(base, config)
    model.save_pretrained(run.model)
    return run


@pytest.fixture
def sharded_run(run: Run) -> Run:
    """The run as a training of FSDP leaves it that ended before it merged: no final weights."""
    import torch.distributed.checkpoint as dcp
    from safetensors.torch import load_file

    weights = run.model / "model.safetensors"
    folder = run.model / "checkpoint-12"
    dcp.save({"model": load_file(weights)}, checkpoint_id=folder / "pytorch_model_fsdp_0")
    weights.rename(run.root / "whole.safetensors")
    _finish_checkpoint(folder)
    return run


def _finish_checkpoint(folder: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp

    dcp.save({"optimizer": {"step": torch.ones(1)}}, checkpoint_id=folder / "optimizer_0")
    for name in ("scheduler.pt", "rng_state.pth"):
        torch.save({}, folder / name)
    state = {"global_step": 12, "max_steps": 12}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    files = {name: fingerprint(folder / name) for name in list_files(folder)}
    inputs = Inputs(world_size=1, spec="", data={}, config={})
    write_marker(folder, Marker(12, 0.0, "fsdp_sharded", inputs, files))
