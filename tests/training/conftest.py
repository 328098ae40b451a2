"""Supervisors over a fake training, as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.run import Run
from multitask.training.process import end_processes

SUPERVISE = Path(__file__).parents[1] / "support" / "supervise.py"
ROOT = Path(__file__).parents[2]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.data.mkdir(parents=True)
    run.spec.write_text("model: x\n")
    run.axolotl.write_text(yaml.safe_dump({"learning_rate": 0.1}))
    run.manifest.write_text(json.dumps({"files": {"train.jsonl": {"sha256": "rows"}}}))
    plan(run)
    return run


def plan(run: Run, **faults: Any) -> None:
    """Faults by attempt (``attempt1``) and node: ``plan(run, attempt1={0: (5, "kill")})``."""
    content = {name.removeprefix("attempt"): fault for name, fault in faults.items()}
    (run.root / "faults.json").write_text(json.dumps(content))


@pytest.fixture
def start(run: Run) -> Iterator[Start]:
    """Start a supervisor of the run; what is left of it ends with the test."""
    started = []
    # The user's own cache is not a test's to look at.
    extensions = {"TORCH_EXTENSIONS_DIR": str(run.root.parent / "extensions")}

    def begin(
        node: int = 0, nodes: int = 1, path: str = "", **options: Any
    ) -> subprocess.Popen[str]:
        arguments = [str(run.root), str(node), str(nodes), json.dumps(options)]
        process = subprocess.Popen(
            [sys.executable, str(SUPERVISE), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ) | {"PYTHONPATH": f"{path}:{ROOT}"} | extensions,
        )
        started.append((process, f"{run.root.resolve()}:{node}"))
        return process

    yield begin
    for process, name in started:
        process.kill()
        process.wait()
        end_processes("MULTITASK_RUN", name, patience=0)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and all that it said."""
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def attempts_of(run: Run) -> list[dict[str, Any]]:
    """The attempts that were begun."""
    numbers = sorted(
        int(p.stem) for p in (run.root / "attempts").glob("*.json") if p.stem.isdigit()
    )
    return [json.loads((run.root / "attempts" / f"{n}.json").read_text()) for n in numbers]
