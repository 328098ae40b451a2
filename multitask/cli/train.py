"""``multitask train``."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.cli.options import RunPath


def train(
    run: RunPath,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint.")
    ] = False,
) -> None:
    """Train a run: accelerate launch -m axolotl.cli.train, with live progress.

    On a cluster of several nodes, start it on each node with NODE_RANK and MASTER_ADDR set.

    Example: multitask train runs/first
    """
    from multitask.run import Run
    from multitask.training.display import train_with_display

    log = train_with_display(Run.open(run), resume=resume)
    typer.echo(f"trained model: {run / 'model'}\nlog: {log}\nnext: multitask evaluate {run}")
