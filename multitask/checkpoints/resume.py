"""From where a training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from multitask.checkpoints.inputs import Inputs
from multitask.checkpoints.inventory import list_checkpoints, newest_complete, set_aside
from multitask.errors import InputError
from multitask.run import Run


@dataclass(frozen=True)
class ResumePoint:
    """A decision, made once for all processes of an attempt.

    Attributes:
        path: The checkpoint; None to start from the base model.
        step: Its step; 0 to start.
        set_aside: Torn checkpoints that were renamed.
        changes: What changed since the checkpoint, where that was accepted.
    """

    path: Path | None
    step: int = 0
    set_aside: tuple[Path, ...] = ()
    changes: tuple[str, ...] = ()


def choose_resume(run: Run, world_size: int, *, accept_changes: bool = False) -> ResumePoint:
    """Choose the newest complete checkpoint and set torn ones aside.

    Args:
        run: The run.
        world_size: Processes that will train.
        accept_changes: Go on although the inputs are not those of the checkpoint.

    Raises:
        InputError: The inputs changed since the checkpoint, and that was not accepted.
        MultitaskError: A checkpoint that may be the newest cannot be read; nothing is set aside.
    """
    newest = newest_complete(run.model, contents=True)
    changes: tuple[str, ...] = ()
    if newest is not None and newest.marker is not None:
        changes = newest.marker.inputs.changes_to(Inputs.of(run, world_size))
        if changes and not accept_changes:
            raise InputError(
                "the run changed since this checkpoint was saved:\n"
                + "\n".join(f"  - {change}" for change in changes),
                where=newest.path,
                fix="undo the change, build a new run for it, or add --accept-changes to go on "
                "from the checkpoint all the same",
            )
    step = newest.step if newest is not None else -1
    # A torn one of an older step is no danger, but Axolotl would save into it or merge it.
    aside = [c for c in list_checkpoints(run.model) if c.torn or (c.complete and c.step > step)]
    return ResumePoint(
        path=None if newest is None else newest.path,
        step=max(step, 0),
        set_aside=tuple(set_aside(checkpoint) for checkpoint in aside),
        changes=changes,
    )
