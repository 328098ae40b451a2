"""``multitask train``."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.cli.options import RunPath


def train(
    run: RunPath,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a run that was trained before, from its newest complete checkpoint.",
        ),
    ] = False,
    max_restarts: Annotated[
        int,
        typer.Option(
            min=0, help="Give up after this many failures in a row without a new checkpoint."
        ),
    ] = 3,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Resume even if the run changed since the checkpoint."
        ),
    ] = False,
) -> None:
    """Train a run: accelerate launch -m axolotl.cli.train, with live progress and restarts.

    After a crash it goes on from the newest complete checkpoint. Ctrl-C or SIGTERM saves, then
    stops; twice stops at once. On a cluster of several nodes, start it on each node with
    NODE_RANK and MASTER_ADDR set.

    Example: multitask train runs/first
    """
    from multitask.run import Run
    from multitask.training.supervisor import Options
    from multitask.training.train import train_with_display

    options = Options(max_restarts=max_restarts, accept_changes=accept_changes)
    log = train_with_display(Run.open(run), resume=resume, options=options)
    typer.echo(f"trained model: {run / 'model'}\nlog: {log}\nnext: multitask evaluate {run}")
