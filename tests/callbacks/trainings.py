"""A toy run on the embedded sample, and starting it with real Axolotl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from multitask.run import Run
from multitask.toy import ToySize, write_toy_model

TASKS = ("text_claims", "banking77", "commonsense_qa")


def build(folder: Path, **spec: Any) -> Run:
    """Build ``folder/run`` for a toy; keyword arguments are keys of the spec."""
    from multitask.build import build_config
    from multitask.spec import load_spec

    texts = ["classify this claim", "water damage in the kitchen", "where is my card?"] * 50
    size = ToySize(hidden=64, layers=2, heads=4, vocabulary=600, context=512)
    write_toy_model(folder / "toy", texts, size=size)
    content = {
        "model": "toy",
        "tasks": list(TASKS),
        "cluster": "cpu",
        "method": "full",
        "epochs": 1,
        "sequence_len": 512,
        "sample": True,
        "learning_rate": 0.003,
        "global_batch_size": 16,
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(content | spec))
    return build_config(load_spec(folder / "spec.yaml"), folder / "run", validate=False).run


def start(
    run: Run, *arguments: str, processes: int = 1, without: tuple[str, ...] = (), **environment: str
) -> str:
    """Train a run; with several processes under FSDP2. Returns what it printed."""
    launcher = ["accelerate.commands.launch", "--config_file", str(run.accelerate)]
    module = "axolotl.cli.train"
    if processes > 1:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        module = "tests.callbacks.cpu_fsdp"
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", module, str(run.axolotl), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
        env={k: v for k, v in os.environ.items() if k not in without} | environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def lines(path: Path) -> list[dict[str, Any]]:
    """A log of one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]
