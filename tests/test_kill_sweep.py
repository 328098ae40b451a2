"""A killed training ends as if it had not been killed: the same losses, step by step, to the bit.

Real Axolotl on the CPU, killed with SIGKILL at a named point (``tests/support/kill_plugin.py``) and
restarted by the real supervisor. One point runs with every test; all of them: make kill-sweep.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.checkpoints import list_checkpoints
from multitask.run import Run
from multitask.runners.axolotl.file import PLUGIN
from multitask.runners.axolotl.validate import axolotl_installed
from tests.toy_run import (
    EVERY,
    FSDP,
    STEPS,
    build_toy_run,
    events,
    losses,
    multitask,
    train_fsdp,
)

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed"),
]

# Where, and from which step the next attempt then must start. Rotation first has work at step 9.
POINTS = {
    "step_begin@4": 3,
    "substep_end@5": 3,
    "optimizer_step@7": 6,
    "step_end@8": 6,
    "evaluation@6": 3,
    "model:before@6": 3,
    "model:half@6": 3,
    "model:after@9": 6,
    "optimizer:before@6": 3,
    "optimizer:half@9": 6,
    "scheduler:half@6": 3,
    "rng:before@6": 3,
    "rng:half@6": 3,
    "rng:after@9": 6,
    "state:before@6": 3,
    "state:half@6": 3,
    "state:after@6": 3,
    "marker:before@9": 6,
    "marker:half@6": 3,
    "marker:after@6": 6,
    "rotation:before@9": 9,
    "rotation:half@9": 9,
    "rotation:after@9": 9,
    "model:half@3": 0,
    "marker:before@3": 0,
    "model:half@12": 9,
    "final@12": 12,
}
QUICK = ("optimizer:half@9",)
LORA_POINTS = {"adapter:half@6": 3, "step_end@8": 6, "marker:before@9": 6}
# Two FSDP2 ranks; after the `#` the one that is killed.
FSDP_POINTS = {
    "step_end@5#1": 3,
    "shards:model@6#0": 3,
    "shards:optimizer@6#1": 3,
    "rng:before@9#1": 6,
    "marker:before@9#0": 6,
}
FSDP_LORA_POINTS = {"step_end@8#0": 6, "shards:optimizer@6#0": 3}


def _points(points: dict[str, int], quick: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(point, step, id=point, marks=() if point in quick else pytest.mark.slow)
        for point, step in points.items()
    ]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _undisturbed(tmp_path_factory.mktemp("full"), "full")


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _undisturbed(tmp_path_factory.mktemp("fsdp"), "full", ranks=2)


@pytest.fixture(scope="module")
def fsdp_lora(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _undisturbed(tmp_path_factory.mktemp("fsdp_lora"), "lora", ranks=2)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _undisturbed(tmp_path_factory.mktemp("lora"), "lora")


def _undisturbed(folder: Path, method: str, ranks: int = 1) -> Run:
    plugins = [PLUGIN, "kill_plugin.KillPlugin", "cpu_fsdp.CpuFsdpPlugin"]
    run = build_toy_run(
        folder,
        method=method,
        plugins=plugins if ranks > 1 else plugins[:2],
        eval_steps=EVERY,
        evals_per_epoch=None,
    )
    if ranks > 1:  # a spec for a CPU cannot ask for it
        config = yaml.safe_load(run.axolotl.read_text()) | FSDP
        run.axolotl.write_text(yaml.safe_dump(config))
    done = train_fsdp(run) if ranks > 1 else multitask("train", run.root)
    assert done.returncode == 0, done.stderr
    assert sorted(losses(run)) == list(range(1, STEPS + 1))
    return run


def _train_killed(whole: Run, folder: Path, point: str) -> Run:
    run = Run(folder / "run")
    ignored = shutil.ignore_patterns("model", "logs", "attempts")
    shutil.copytree(whole.root, run.root, ignore=ignored)
    environment = {"KILL_POINT": point, "KILL_DONE": str(folder / "killed")}
    if "#" in point:
        done = train_fsdp(run, environment)
    else:
        done = multitask("train", run.root, environment=environment)
    assert done.returncode == 0, done.stderr
    assert (folder / "killed").exists(), "the point was never reached"
    assert "killed by SIGKILL; restarting" in done.stderr
    return run


def _assert_the_same_end(run: Run, whole: Run, resumed_from: int) -> None:
    begins = [event["step"] for event in events(run) if event["event"] == "start"]
    assert begins == [0, resumed_from]
    assert losses(run) == losses(whole)
    for mine, theirs in zip(_weights(run.model), _weights(whole.model), strict=True):
        assert mine.read_bytes() == theirs.read_bytes()
    assert all(checkpoint.complete for checkpoint in list_checkpoints(run.model, contents=True))
    assert _weights(run.model)
    steps = [checkpoint.step for checkpoint in list_checkpoints(run.model)]
    assert steps == [checkpoint.step for checkpoint in list_checkpoints(whole.model)]
    left = {path.name.split("-")[0] for path in run.model.iterdir() if path.is_dir()}
    assert left <= {"checkpoint", "torn", ".removing"}


def _weights(model: Path) -> list[Path]:
    return sorted(model.glob("*.safetensors"))


@pytest.mark.parametrize(("point", "step"), _points(POINTS, QUICK))
def test_a_killed_full_finetune_ends_with_the_same_losses(
    full: Run, tmp_path: Path, point: str, step: int
) -> None:
    _assert_the_same_end(_train_killed(full, tmp_path, point), full, step)


@pytest.mark.parametrize(("point", "step"), _points(LORA_POINTS, ()))
def test_a_killed_lora_ends_with_the_same_adapter(
    lora: Run, tmp_path: Path, point: str, step: int
) -> None:
    run = _train_killed(lora, tmp_path, point)
    _assert_the_same_end(run, lora, step)
    assert yaml.safe_load(run.axolotl.read_text())["adapter"] == "lora"


@pytest.mark.parametrize(("point", "step"), _points(FSDP_POINTS, ()))
def test_a_killed_rank_of_fsdp_costs_nothing_but_time(
    fsdp: Run, tmp_path: Path, point: str, step: int
) -> None:
    _assert_the_same_end(_train_killed(fsdp, tmp_path, point), fsdp, step)


@pytest.mark.parametrize(("point", "step"), _points(FSDP_LORA_POINTS, ()))
def test_a_killed_rank_of_fsdp_ends_with_the_same_adapter(
    fsdp_lora: Run, tmp_path: Path, point: str, step: int
) -> None:
    _assert_the_same_end(_train_killed(fsdp_lora, tmp_path, point), fsdp_lora, step)
