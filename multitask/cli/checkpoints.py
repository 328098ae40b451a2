"""``multitask checkpoints``."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.cli.options import RunPath


def checkpoints(
    run: RunPath,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Also compare the files' contents with what was recorded at the save."
        ),
    ] = False,
) -> None:
    """List a run's checkpoints: which are complete, which are torn and why, which is next.

    Example: multitask checkpoints runs/first
    """
    from multitask.checkpoints.table import print_checkpoints
    from multitask.run import Run

    print_checkpoints(Run.open(run), contents=verify)
