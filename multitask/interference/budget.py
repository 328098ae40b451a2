"""What a run was trained with, so that a comparison can say whether budgets are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from multitask.cluster import load_cluster
from multitask.data.readers import iterate_rows
from multitask.files import read_json, read_mapping, understood
from multitask.reports.training import read_lines, tokens_by_task
from multitask.run import Run

Same = Literal["rows", "steps", "other"]

# Planned passes differ by rounding where a mixture takes parts of passes.
_CLOSE = 0.005

# Keys of axolotl.yaml that make no other training of a task: places, passes, saves, logs, and how
# a batch is spread, of which the product is compared.
_NOT_COMPARED = (
    "base_model",
    "dataset",
    "test_datasets",
    "output_dir",
    "num_epochs",
    "max_steps",
    "save_",
    "logging_",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "multitask",
    "wandb",
    "hub_",
    "plugins",
)


@dataclass(frozen=True)
class Budget:
    """What a run spent on one task.

    Attributes:
        rows: Distinct training rows.
        seen: How often a row was to be seen, over all rows; None where a limit of steps decides.
        steps: Optimizer steps of the whole run; None where it was not trained with our plugin.
        tokens: Supervised tokens of the task, as logged; None likewise.
        train: Digest of the training rows, whatever their order.
    """

    rows: int
    seen: float | None
    steps: int | None
    tokens: int | None
    train: str

    def record(self) -> dict[str, Any]:
        """As written to interference.json."""
        return asdict(self)


def budgets(run: Run) -> dict[str, Budget]:
    """The budget of every task of a run."""
    manifest = read_json(run.manifest)
    config = axolotl_config(run)
    epochs = None if "max_steps" in config else float(config.get("num_epochs", manifest["epochs"]))
    tokens, digests = tokens_by_task(run.balance_log), _training_rows(run)
    return {
        task: Budget(
            rows=record["mixture"]["distinct"],
            seen=None if epochs is None else epochs * record["mixture"]["rows"],
            steps=steps_of(run),
            tokens=tokens.get(task),
            train=digests[task],
        )
        for task, record in manifest["tasks"].items()
    }


def same_budget(one: Budget, other: Budget) -> Same:
    """In what two budgets agree: rows seen equally often, optimizer steps, or neither."""
    if one.train == other.train and one.seen is not None and other.seen is not None:
        close = abs(one.seen - other.seen) <= _CLOSE * one.seen
    else:
        close = False
    if close:
        return "rows"
    if one.steps is not None and one.steps == other.steps:
        return "steps"
    return "other"


def steps_of(run: Run) -> int | None:
    """Optimizer steps that a run took, or was to take when it was stopped; None: not known."""
    events = list(read_lines(run.trainer_events))
    return int(events[-1]["max_steps"]) if events else None


def sequences_per_step(run: Run) -> int | None:
    """The global batch of a run; None where it is not built."""
    config = axolotl_config(run)
    if not config:
        return None
    with understood(run.spec):
        world = load_cluster(str(read_mapping(run.spec)["cluster"])).world_size
    with understood(run.axolotl):
        return int(config["micro_batch_size"]) * int(config["gradient_accumulation_steps"]) * world


def axolotl_config(run: Run) -> dict[str, Any]:
    """The run's ``axolotl.yaml``; empty where there is none."""
    if not run.axolotl.is_file():
        return {}
    return read_mapping(run.axolotl)


def settings_that_differ(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Keys of two ``axolotl.yaml`` that make another training, with both values."""
    if not one or not other:
        return []
    return [
        (key, one.get(key), other.get(key))
        for key in sorted({*one, *other})
        if not key.startswith(_NOT_COMPARED) and one.get(key) != other.get(key)
    ]


def _training_rows(run: Run) -> dict[str, str]:
    """A digest of each task's training rows with their phrasings, whatever their order.

    The sum of the rows' own digests modulo 2^128, since a sorted list would hold all rows.
    """
    sums: dict[str, int] = {}
    for row in iterate_rows(run.split("train")):
        content = json.dumps([row["id"], row["template"], row["messages"]]).encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        sums[row["task"]] = (sums.get(row["task"], 0) + int.from_bytes(digest)) % 2**128
    return {task: f"{value:032x}" for task, value in sums.items()}
