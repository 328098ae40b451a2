"""One estimate of a plan with its checkpoints and cost, and several side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from multitask.errors import InputError, MultitaskError
from multitask.estimate.assumptions import (
    GB,
    LONGEST_INTERVAL_MINUTES,
    MTBF_HOURS,
    SAVE_SECONDS,
    STARTUP_MINUTES,
    WRITE_GB_S,
)
from multitask.estimate.inputs import Machines, Spread, Training, Workload
from multitask.estimate.step import Memory, StepTime, estimate_memory, step_time
from multitask.models.shape import ModelShape


@dataclass(frozen=True)
class Plan:
    """Everything that an estimate depends on.

    Attributes:
        shape: The model.
        training: What learns.
        spread: How the state is divided.
        machines: On what.
        workload: Data, lengths and batch.
        method: Name of the method, for tables.
        keep: Checkpoints that stay on disk.
        mtbf_hours: Mean time between failures of the whole cluster.
        save_steps: Optimizer steps between saves, below 1 a share of all; None: what loses least.
        max_minutes: A save at least this often, where ``save_steps`` is not given.
        write_gb_s: How fast all nodes together write a checkpoint.
    """

    shape: ModelShape
    training: Training
    spread: Spread
    machines: Machines
    workload: Workload
    method: str = ""
    keep: int = 3
    mtbf_hours: float = MTBF_HOURS
    save_steps: float | None = None
    max_minutes: float = LONGEST_INTERVAL_MINUTES
    write_gb_s: float = WRITE_GB_S


@dataclass(frozen=True)
class Estimate:
    """What a plan needs.

    Attributes:
        plan: What was estimated.
        memory: Of one GPU.
        fits: Whether GPU and main memory hold it; None where their size is not known.
        why_not: What does not fit, in one sentence; empty when it fits.
        checkpoint_gb: Size of one checkpoint.
        disk_gb: Disk for base model, checkpoints and result.
        step: Of one optimizer step.
        steps: Optimizer steps of the run.
        cadence: How often to save.
        hours: Of the whole run: start, training, saves and the work that failures cost.
        usd: What it costs; None where nobody bills.
    """

    plan: Plan
    memory: Memory
    fits: bool | None
    why_not: str
    checkpoint_gb: float
    disk_gb: float
    step: StepTime
    steps: int
    cadence: Cadence
    hours: float
    usd: float | None


def estimate(plan: Plan) -> Estimate:
    """Estimate memory, disk, time and cost of a plan.

    Raises:
        InputError: The cluster lacks a number that is needed.
    """
    memory = estimate_memory(plan.shape, plan.training, plan.spread, plan.workload)
    step = step_time(plan.shape, plan.training, plan.spread, plan.machines, plan.workload)
    steps = plan.workload.steps(plan.spread.world_size)
    size = checkpoint_gb(plan.training, plan.spread)
    stall = save_seconds(size, write_gb_s=plan.write_gb_s)
    cadence = checkpoint_cadence(
        step.total,
        stall,
        plan.mtbf_hours,
        longest_minutes=plan.max_minutes,
        save_steps=_save_steps(plan.save_steps, steps),
    )
    hours = _hours(steps * step.total, stall, cadence, plan.mtbf_hours)
    why_not = _why_not(memory, plan.machines)
    price = plan.machines.usd_per_hour
    return Estimate(
        plan=plan,
        memory=memory,
        fits=None if plan.machines.memory_gb is None else not why_not,
        why_not=why_not,
        checkpoint_gb=size,
        disk_gb=disk_gb(plan.shape, plan.training, plan.spread, keep=plan.keep),
        step=step,
        steps=steps,
        cadence=cadence,
        hours=hours,
        usd=None if price is None else hours * price,
    )


def _save_steps(wanted: float | None, steps: int) -> int | None:
    """The interval that is given, in steps: the trainer rounds a share of them up."""
    if wanted is None:
        return None
    return max(1, math.ceil(wanted * steps) if wanted < 1 else round(wanted))


def _hours(training: float, stall: float, cadence: Cadence, mtbf_hours: float) -> float:
    """Hours of a run: start, training, at least one save, and work that failures undo.

    Args:
        training: Seconds of all optimizer steps.
        stall: Seconds of a save.
        cadence: The interval between saves.
        mtbf_hours: Mean time between failures.
    """
    interval = min(cadence.minutes * 60, training)
    saves = math.ceil(training / (cadence.minutes * 60))
    failures = training / (mtbf_hours * 3600)
    lost = failures * (interval / 2 + STARTUP_MINUTES * 60)
    return (training + saves * stall + lost) / 3600 + STARTUP_MINUTES / 60


def _why_not(memory: Memory, machines: Machines) -> str:
    if machines.memory_gb is not None and memory.total > machines.memory_gb:
        return f"needs {memory.total:.0f} GB of a GPU's {machines.memory_gb:g} GB"
    host = memory.host * max(1, machines.gpus_per_node)
    if machines.host_memory_gb is not None and host > machines.host_memory_gb:
        return f"needs {host:.0f} GB of a node's {machines.host_memory_gb:g} GB of main memory"
    return ""


@dataclass(frozen=True)
class Row:
    """A line of a comparison.

    Attributes:
        cluster: Name of the machines.
        method: Name of the method.
        sharding: How the state is divided.
        estimate: The numbers; None when it could not be estimated.
        reason: Why it does not fit, or could not be estimated; empty when it fits.
    """

    cluster: str
    method: str
    sharding: str
    estimate: Estimate | None
    reason: str

    @property
    def fits(self) -> bool:
        """Whether it can be run."""
        return self.estimate is not None and not self.reason


def compare(plans: Iterable[Plan]) -> list[Row]:
    """Estimate several plans: a row for each, those that fit first, the cheapest on top.

    Where nobody bills, the shortest comes first. A plan that cannot be estimated is a row with
    the reason, not an error.
    """
    rows = []
    for plan in plans:
        found: Estimate | None = None
        try:
            found = estimate(plan)
            reason = found.why_not
        except MultitaskError as error:
            reason = str(error)
        rows.append(Row(plan.machines.name, plan.method, plan.spread.sharding, found, reason))
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[bool, float, float, str, str]:
    if row.estimate is None:
        return (True, float("inf"), float("inf"), row.cluster, row.method)
    usd = row.estimate.usd
    dollars = float("inf") if usd is None else usd
    return (not row.fits, dollars, row.estimate.hours, row.cluster, row.method)


class Cadence(NamedTuple):
    """How often to save.

    Attributes:
        save_steps: Optimizer steps between saves.
        minutes: The same in minutes.
        expected_loss_percent: Share of the time that saving and repeating lost work take.
    """

    save_steps: int
    minutes: float
    expected_loss_percent: float


def checkpoint_gb(training: Training, spread: Spread) -> float:
    """Size of a checkpoint that training can resume from, in GB.

    Weights and optimizer state of what learns; gradients are not saved, and a frozen base is
    where it was.
    """
    bytes_ = training.state_bytes(spread.sharding)
    return training.trainable * (bytes_.weights + bytes_.optimizer) / GB


def disk_gb(shape: ModelShape, training: Training, spread: Spread, *, keep: int = 3) -> float:
    """Disk that a run needs, in GB: the base model, the checkpoints and the result.

    Args:
        shape: The model.
        training: What learns.
        spread: How it is held.
        keep: Checkpoints that stay; one more lies there while the oldest is not yet removed.
    """
    base = shape.parameters * 2 / GB
    result = training.trainable * (4 if training.frozen_base else 2) / GB
    return base + result + (keep + 1) * checkpoint_gb(training, spread)


def save_seconds(size_gb: float, *, write_gb_s: float = WRITE_GB_S) -> float:
    """How long training stands still for a save.

    Args:
        size_gb: Of the checkpoint.
        write_gb_s: Of the volume that all nodes write to together.
    """
    return SAVE_SECONDS + size_gb / write_gb_s


def checkpoint_cadence(
    step_seconds: float,
    save_seconds: float,
    mtbf_hours: float,
    *,
    longest_minutes: float = LONGEST_INTERVAL_MINUTES,
    save_steps: int | None = None,
) -> Cadence:
    """The interval between checkpoints that loses least, or what one that is given loses.

    T = sqrt(2 * C * MTBF) (Young 1974; Daly 2006, first order). The expected loss is C/T for
    saving and, at every failure, the work since the last save: T/2 on average, and the interval
    may not be longer than ``longest_minutes``.

    Args:
        step_seconds: Of one optimizer step.
        save_seconds: C, the time that training stands still for a save.
        mtbf_hours: Mean time between failures of the whole cluster.
        longest_minutes: A checkpoint at least this often.
        save_steps: Steps between saves, where they are given.

    Raises:
        InputError: A number is not positive.
    """
    if min(step_seconds, save_seconds, mtbf_hours, longest_minutes) <= 0:
        raise InputError("step time, save time and time between failures must be positive")
    mtbf = mtbf_hours * 3600
    best = min(math.sqrt(2 * save_seconds * mtbf), longest_minutes * 60)
    steps = save_steps or max(1, math.floor(best / step_seconds))
    interval = steps * step_seconds
    loss = save_seconds / interval + interval / (2 * mtbf)
    return Cadence(steps, interval / 60, 100 * loss)
