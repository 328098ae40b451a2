"""A toy run on the embedded sample, and starting it with real Axolotl."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import yaml

from multitask.run import Run
from multitask.toy import ToySize, write_toy_model
from tests.warm import run_warm, warm_environment

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
    words = ["accelerate", "--config_file", run.accelerate, "-m", "axolotl.cli.train", run.axolotl]
    if processes > 1:
        words = ["--nnodes", 1, "--node-rank", 0, "--nproc-per-node", processes]
        words += ["--master-addr", "127.0.0.1", "--master-port", _free_port()]
        words += ["--log-dir", run.logs / "ranks", run.axolotl]
    variables = warm_environment(**environment)
    done = run_warm(
        *words,
        *arguments,
        cwd=Path(__file__).parents[2],
        environment={k: v for k, v in variables.items() if k in environment or k not in without},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def lines(path: Path) -> list[dict[str, Any]]:
    """A log of one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]
