"""The table of a run's checkpoints."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multitask.checkpoints.inventory import TORN_PREFIX, Checkpoint, list_checkpoints
from multitask.checkpoints.layout import list_files
from multitask.checkpoints.marker import Inputs
from multitask.formatting import age, byte_size
from multitask.run import Run

_SHOWN = 3
_STYLES = {"complete": "green", "torn": "red", "unreadable": "yellow"}


def print_checkpoints(run: Run, *, contents: bool = False) -> None:
    """Print step, state, size and age of each checkpoint, and from where `--resume` goes on.

    Args:
        run: The run.
        contents: Compare the files' contents with the markers too.
    """
    console = Console()
    checkpoints = list_checkpoints(run.model, contents=contents)
    complete = [checkpoint for checkpoint in checkpoints if checkpoint.complete]
    if checkpoints:
        console.print(_table(checkpoints, complete[-1] if complete else None))
    for path in sorted(run.model.glob(f"{TORN_PREFIX}checkpoint-*")):
        held = byte_size(sum(list_files(path).values()))
        console.print(
            f"set aside: {path.name}  ({held}; remove it when you do not need it)",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    unreadable = [c for c in checkpoints if not c.readable]
    if unreadable and (not complete or unreadable[-1].step > complete[-1].step):
        name = unreadable[-1].path.name
        console.print(
            f"`--resume` refuses while {name} cannot be read", style="yellow", highlight=False
        )
        return
    if not complete:
        console.print("no complete checkpoint; `multitask train --resume` starts from the base")
        return
    newest = complete[-1]
    console.print(
        f"next to resume from: {newest.path.name}  (multitask train {run.root} --resume)",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    assert newest.marker is not None
    then = newest.marker.inputs
    for change in then.changes_to(Inputs.of(run, then.world_size)):
        console.print(f"changed since: {change}", style="yellow", highlight=False, markup=False)


def _table(checkpoints: list[Checkpoint], newest: Checkpoint | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step", justify="right")
    table.add_column("state")
    table.add_column("size", justify="right")
    table.add_column("age", justify="right")
    table.add_column("processes", justify="right")
    table.add_column("why", overflow="fold")
    for checkpoint in checkpoints:
        why = "; ".join(checkpoint.problems[:_SHOWN])
        if len(checkpoint.problems) > _SHOWN:
            why += f"; and {len(checkpoint.problems) - _SHOWN} more"
        if checkpoint is newest:
            why = "next to resume from"
        marker = checkpoint.marker
        table.add_row(
            str(checkpoint.step),
            f"[{_STYLES[checkpoint.state]}]{checkpoint.state}[/]",
            byte_size(checkpoint.size),
            age(time.time() - checkpoint.modified),
            "?" if marker is None else str(marker.inputs.world_size),
            escape(why),
        )
    return table
