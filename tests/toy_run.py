"""A run that trains in seconds: a tiny Llama, 12 optimizer steps, a checkpoint every third."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from multitask.run import Run
from multitask.toy import ToySize, write_toy_model
from tests.warm import SUPPORT, multitask

STEPS, EVERY = 12, 3


def build_toy_run(folder: Path, *, method: str = "full", **axolotl: Any) -> Run:
    """Build a run in ``folder/run`` with the real build, for real Axolotl."""
    texts = ["classify this claim", "water damage in the kitchen", "where is my card?"] * 30
    size = ToySize(hidden=64, layers=2, heads=4, vocabulary=600, context=256)
    write_toy_model(folder / "toy", texts, size=size)
    content = {
        "model": str(folder / "toy"),
        "tasks": ["text_claims"],
        "cluster": "cpu",
        "method": method,
        "sequence_len": 256,
        "sample": True,
        "learning_rate": 0.003,
        "global_batch_size": 8,
        "checkpoint": {"save_steps": EVERY, "keep": 2},
        "axolotl": {
            "micro_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_steps": STEPS,
            "num_epochs": 50,
            "logging_steps": 1,
            **axolotl,
        },
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(content))
    done = multitask("build-config", folder / "spec.yaml", "--out", folder / "run", "--no-validate")
    assert done.returncode == 0, done.stderr
    return Run(folder / "run")


FSDP = {
    "fsdp_version": 2,
    "fsdp_config": {
        "offload_params": False,
        "cpu_ram_efficient_loading": True,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
        "state_dict_type": "SHARDED_STATE_DICT",
    },
}


def train_fsdp(
    run: Run, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Train a run on two CPU ranks under the real supervisor; it needs ``CpuFsdpPlugin``."""
    return subprocess.run(
        [sys.executable, str(SUPPORT / "supervise_fsdp.py"), str(run.root)],
        capture_output=True,
        text=True,
        env=toy_environment() | {"ACCELERATE_USE_CPU": "true"} | dict(environment or {}),
    )


def toy_environment() -> dict[str, str]:
    """The environment of toy trainings that are true launches: nothing in them is warm."""
    path = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH", "")]))
    return dict(os.environ) | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "AXOLOTL_DO_NOT_TRACK": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def events(run: Run) -> list[dict[str, Any]]:
    """The plugin's events; half lines of killed processes are left out."""
    found = []
    for line in run.trainer_events.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def losses(run: Run) -> dict[int, float]:
    """The loss of each step as it was logged last."""
    return {
        e["step"]: float(e["values"]["loss"]) for e in events(run) if "loss" in e.get("values", {})
    }
