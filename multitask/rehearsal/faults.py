"""Faults on demand: which process or machine goes wrong, how, and when.

A fault is asked for in the user's words (``rank:5@step:3``), carried to the ranks in an
environment variable, and happens once: a file says that it has.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from multitask.errors import InputError
from multitask.run import Run
from multitask.training.progress import append_event

VARIABLE = "MULTITASK_REHEARSAL_FAULTS"
FOLDER_VARIABLE = "MULTITASK_REHEARSAL_FAULT_FOLDER"

Kind = Literal["kill", "partition", "disk-full", "stall"]
_PATTERN = re.compile(r"(rank|node):(\d+)@(?:step:(\d+)|(save))")
_TARGETS: dict[str, tuple[str, ...]] = {
    "kill": ("rank", "node"),
    "partition": ("node",),
    "disk-full": ("node",),
    "stall": ("rank",),
}

# Bytes that a process may still write once its disk is "full".
_LAST_BYTES = 4096


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong once.

    Attributes:
        kind: ``kill``, ``partition``, ``disk-full`` or ``stall``.
        target: ``rank`` or ``node``.
        index: Its number.
        step: The optimizer step after which it happens; None: in the middle of the first save,
            between the model's and the optimizer's part.
    """

    kind: Kind
    target: Literal["rank", "node"]
    index: int
    step: int | None

    @property
    def name(self) -> str:
        """As the user writes it, with dashes for a file's name."""
        point = "save" if self.step is None else f"step-{self.step}"
        return f"{self.kind}-{self.target}-{self.index}-at-{point}"

    def happened(self, folder: Path) -> bool:
        """Whether it has."""
        return any(folder.glob(f"{self.name}-rank-*"))


def parse_fault(kind: Kind, text: str, *, nodes: int, procs: int) -> Fault:
    """Read ``rank:5@step:3``, ``node:1@save``.

    Args:
        kind: What goes wrong.
        text: Where and when.
        nodes: Nodes of the rehearsal.
        procs: Ranks of each.

    Raises:
        InputError: It is not of that form, or there is no such rank or node.
    """
    found = _PATTERN.fullmatch(text)
    targets = _TARGETS[kind]
    if found is None or found[1] not in targets:
        forms = " or ".join(f"{t}:N@step:S, {t}:N@save" for t in targets)
        raise InputError(f"cannot read {text!r}", where=f"--{kind}", fix=f"write {forms}")
    index = int(found[2])
    most = nodes * procs if found[1] == "rank" else nodes
    if index >= most:
        raise InputError(
            f"there is no {found[1]} {index}", where=f"--{kind}", fix=f"use 0 to {most - 1}"
        )
    if kind == "disk-full" and found[3]:
        raise InputError(
            "a disk is full when something is saved", where=f"--{kind}", fix="write node:N@save"
        )
    target: Literal["rank", "node"] = "rank" if found[1] == "rank" else "node"
    return Fault(kind, target, index, int(found[3]) if found[3] else None)


def as_environment(faults: Sequence[Fault], folder: Path) -> dict[str, str]:
    """What the ranks' environment says of the faults."""
    return {
        VARIABLE: json.dumps([asdict(fault) for fault in faults]),
        FOLDER_VARIABLE: str(folder.resolve()),
    }


def install() -> None:
    """In a rank: let the faults that are its own happen."""
    faults = [Fault(**record) for record in json.loads(os.environ.get(VARIABLE, "[]"))]
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    node = int(os.environ["GROUP_RANK"])
    own = [
        fault
        for fault in faults
        if fault.index == (rank if fault.target == "rank" else node)
        # Of a node, one rank asks for what is done to the machine; each has a disk of its own.
        and (fault.target == "rank" or local == 0 or fault.kind == "disk-full")
    ]
    if own:
        _hook(own, Path(os.environ[FOLDER_VARIABLE]), rank)


def _hook(faults: Sequence[Fault], folder: Path, rank: int) -> None:
    from transformers import Trainer, TrainerCallback
    from transformers.trainer import DEFAULT_CALLBACKS

    class AtStep(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            for fault in faults:
                if fault.step == state.global_step:
                    _happen(fault, folder, rank, args, state)

    DEFAULT_CALLBACKS.append(AtStep)
    original = Trainer._save_optimizer_and_scheduler

    def save(self: Any, output_dir: str) -> None:
        for fault in faults:
            if fault.step is None:
                _happen(fault, folder, rank, self.args, self.state)
        original(self, output_dir)

    Trainer._save_optimizer_and_scheduler = save


def _happen(fault: Fault, folder: Path, rank: int, args: Any, state: Any) -> None:
    done = folder / f"{fault.name}-rank-{rank}"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    done.touch()
    # The first rank may be ended before it has written that this step was trained.
    run = Run(Path(args.output_dir).resolve().parent)
    append_event(run.trainer_events, "fault", state, fault=fault.name, rank=rank)
    if fault.kind == "disk-full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_LAST_BYTES, _LAST_BYTES))
    elif fault.kind == "kill" and fault.target == "rank":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind == "stall":
        time.sleep(1e6)
    else:  # done to the machine, by the rehearsal, which sees the file
        (folder / f"{fault.name}.wanted").touch()
        granted = folder / f"{fault.name}.granted"
        while not granted.exists():
            time.sleep(0.05)


def wanted(faults: Sequence[Fault], folder: Path) -> list[Fault]:
    """Faults that are to be done to a machine now."""
    return [
        fault
        for fault in faults
        if (folder / f"{fault.name}.wanted").exists()
        and not (folder / f"{fault.name}.granted").exists()
    ]


def grant(fault: Fault, folder: Path) -> None:
    """Say that a fault was done to its machine."""
    (folder / f"{fault.name}.granted").touch()
