"""Size of a checkpoint, and how often to write one."""

from __future__ import annotations

import math
from typing import NamedTuple

from multitask.errors import InputError
from multitask.estimate.assumptions import GB, LONGEST_INTERVAL_MINUTES, SAVE_SECONDS, WRITE_GB_S
from multitask.estimate.inputs import Spread, Training
from multitask.models.shape import ModelShape


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
