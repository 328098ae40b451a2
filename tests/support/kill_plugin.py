"""An Axolotl plugin of the tests: kills the training once, at a named point, or waits there.

``KILL_POINT`` names the point as ``WHERE@STEP`` or ``WHERE@STEP#RANK``; ``KILL_DONE`` is a file
that is made before the kill, so that the restarted training lives. Points inside a write leave
half of the file behind. ``stop@STEP`` waits once, until the attempt is asked to stop.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin
from torch.distributed.checkpoint import FileSystemWriter
from transformers import TrainerCallback
from transformers import trainer as trainer_module

from multitask.callbacks import checkpoints as callback
from multitask.checkpoints import marker as marker_module
from multitask.run import Run
from multitask.training.attempts import stop_requested

# WHERE -> the trainer's method, and the file that is cut where the kill comes in the middle.
SAVES = {
    "model": ("save_model", "model.safetensors"),
    "adapter": ("save_model", "adapter_model.safetensors"),
    "optimizer": ("_save_optimizer_and_scheduler", "optimizer.pt"),
    "scheduler": ("_save_optimizer_and_scheduler", "scheduler.pt"),
    "rng": ("_save_rng_state", "rng_state.pth"),
}


class KillPlugin(BasePlugin):
    """Patches the trainer of this one training."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        point, done = os.environ.get("KILL_POINT"), os.environ.get("KILL_DONE")
        if point and done and not Path(done).exists():
            name, when, step, rank = parse(point)
            if name == "stop":
                wait_for_a_stop(trainer, Path(cfg.output_dir), step, Path(done))
            elif rank == int(os.environ.get("RANK", "0")):
                arm(trainer, Path(cfg.output_dir), name, when, step, Path(done))


def parse(point: str) -> tuple[str, str, int, int]:
    """``model:half@6`` is the model's save at step 6, in the middle, on rank 0."""
    where, step = point.split("@")
    name, _, when = where.partition(":")
    step, _, rank = step.partition("#")
    return name, when, int(step), int(rank or 0)


def arm(trainer: Any, output: Path, name: str, when: str, step: int, done: Path) -> None:
    def kill() -> None:
        done.touch()
        os.killpg(os.getpgid(0), signal.SIGKILL)

    def at_step() -> bool:
        return bool(trainer.state.global_step == step)

    folder = output / f"checkpoint-{step}"
    if name in SAVES:
        method, file = SAVES[name]
        wrap(trainer, method, at_step, when, lambda: cut(folder / file), kill)
    elif name == "shards":
        # The .metadata comes last in each of the two parts of a sharded save.
        owner = FileSystemWriter if when == "model" else trainer_module
        method = "finish" if when == "model" else "save_fsdp_optimizer"
        wrap(owner, method, at_step, "before", kill, kill)
    elif name == "state":
        wrap_state(trainer, folder, at_step, when, kill)
    elif name in ("marker", "rotation"):
        wrap_module(name, at_step, when, folder, kill)
    elif name == "evaluation":
        trainer.add_callback(Moment("on_prediction_step", at_step, kill))
    elif name == "final":
        # The last checkpoint is saved through the same method, before its marker is there.
        ended = folder / marker_module.MARKER
        wrap(trainer.model, "save_pretrained", ended.exists, "before", kill, kill)
    else:
        trainer.add_callback(Moment(f"on_{name}", at_step, kill))


def wait_for_a_stop(trainer: Any, output: Path, step: int, done: Path) -> None:
    def wait() -> None:
        done.touch()
        while not stop_requested(Run(output.resolve().parent)):
            time.sleep(0.02)

    here = lambda: trainer.state.global_step == step and not done.exists()  # noqa: E731
    trainer.add_callback(Moment("on_step_begin", here, wait))


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def wrap(
    owner: Any, method: str, here: Callable[[], bool], when: str,
    damage: Callable[[], None], kill: Callable[[], None],
) -> None:  # fmt: skip
    """Kill before ``method`` does its work, after it, or so that half of a file is there."""
    real = getattr(owner, method)

    @functools.wraps(real)
    def killing(*args: Any, **kwargs: Any) -> Any:
        if here() and when in ("", "before"):
            kill()
        result = real(*args, **kwargs)
        if here():
            if when == "half":
                damage()
            kill()
        return result

    setattr(owner, method, killing)


def wrap_state(
    trainer: Any, folder: Path, here: Callable[[], bool], when: str, kill: Callable[[], None]
) -> None:
    """The state object is replaced when training begins, so its class is patched."""
    damage = functools.partial(cut, folder / "trainer_state.json")
    wrap(type(trainer.state), "save_to_json", here, when, damage, kill)


def wrap_module(
    name: str, here: Callable[[], bool], when: str, folder: Path, kill: Callable[[], None]
) -> None:
    if name == "marker" and when == "half":
        # The temporary file is whole; the rename has not come.
        wrap(marker_module.os, "fsync", lambda: here() and partial(folder), "after", kill, kill)
    elif name == "marker":
        wrap(callback, "write_marker", here, when, kill, kill)
    elif when == "half":
        wrap(shutil, "rmtree", here, "before", kill, kill)  # renamed, not yet removed
    else:
        wrap(callback, "rotate", here, when, kill, kill)


def partial(folder: Path) -> bool:
    return any(folder.glob("*.partial"))


class Moment(TrainerCallback):  # type: ignore[misc]
    """Kills at an event of the trainer."""

    def __init__(self, event: str, here: Callable[[], bool], kill: Callable[[], None]) -> None:
        def killing(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if here():
                kill()

        setattr(self, event, killing)
