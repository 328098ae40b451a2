"""RUN/runpod.json: what was rented for a run, so that a second command finds it."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from multitask.errors import InputError
from multitask.runpod import api

FILE = "runpod.json"
PREFIX = "multitask-"
"""What the names of all our machines begin with."""

State = Literal["creating", "created", "started", "ended", "gone"]
"""creating: asked for, id perhaps not known. created: rented. started: training was started.
ended: the machine is done, its results may not be here yet. gone: removed, and confirmed."""


@dataclass(frozen=True)
class Record:
    """What was rented. It holds the machine's token: the file is the owner's alone.

    Attributes:
        run_id: The run's name on the machine.
        name: The pod's or cluster's name at RunPod.
        kind: What it is.
        id: RunPod's id; empty until it is known.
        shape: Name of the cluster's file.
        nodes: Machines.
        gpus: GPUs in each.
        gpu: RunPod's id of the GPU type.
        token: What the control server asks for.
        bundle: Hash of the files of the run.
        price: USD per hour, all together.
        max_cost: USD that it may cost.
        created: Unix time of the request.
        deadline: Unix time at which the machine ends by itself.
        image: The container image.
        volume: Id of the network volume; None without one.
        detached: Whether the machine runs on without a client.
        keep: Whether it is to stay when the run has ended.
        primary: Id of the pod with the control server; empty until it is known.
        state: How far it is.
        outcome: Last phase that was seen; empty before the end.
        removed: Unix time of the confirmed removal; 0 before.
        spent: USD of machines rented before this one for the same run.
    """

    run_id: str
    name: str
    kind: api.Kind
    id: str
    shape: str
    nodes: int
    gpus: int
    gpu: str
    token: str
    bundle: str
    price: float
    max_cost: float
    created: float
    deadline: float
    image: str
    volume: str | None = None
    detached: bool = False
    keep: bool = False
    primary: str = ""
    state: State = "creating"
    outcome: str = ""
    removed: float = 0.0
    spent: float = 0.0

    def __repr__(self) -> str:
        return f"Record(name={self.name!r}, kind={self.kind!r}, id={self.id!r}, {self.state})"

    def cost(self, now: float | None = None) -> float:
        """USD of this machine until now, or until it was removed."""
        end = self.removed or (time.time() if now is None else now)
        return max(0.0, end - self.created) / 3600 * self.price

    def total(self) -> float:
        """USD of the run, earlier machines included."""
        return self.spent + self.cost()


class RecordFile:
    """The record of a run, changed as a whole."""

    def __init__(self, run: Path) -> None:
        """Use the record in the run directory ``run``."""
        self.path = run / FILE

    def read(self) -> Record | None:
        """The record; None when nothing has been rented for the run.

        Raises:
            InputError: The file is damaged.
        """
        try:
            content: Any = json.loads(self.path.read_text(encoding="utf-8"))
            known = {field.name for field in fields(Record)}
            return Record(**{key: value for key, value in content.items() if key in known})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"cannot be read ({' '.join(str(error).split())})",
                where=self.path,
                fix="`multitask runpod ls` shows what is billed, `multitask runpod down NAME` "
                "removes it; then delete this file",
            ) from None

    def write(self, record: Record) -> Record:
        """Replace the record; readable by its owner alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{FILE}.", dir=self.path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:  # mkstemp gives mode 0600
                json.dump(asdict(record), file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return record

    def update(self, record: Record, **changes: Any) -> Record:
        """Write ``record`` with changes, and return that."""
        return self.write(replace(record, **changes))
