"""``multitask job``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def job(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The run directory, on a disk that all nodes see."),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="Copy the run from here to RUN first, where it is not there yet.",
        ),
    ] = None,
) -> None:
    """Everything on rented machines: train, and on node 0 evaluate, report, push (with `hub:`).

    Start it on every node: it reads its place from dstack, SkyPilot, Slurm, RunPod or torchrun.
    Started again after an interruption, it goes on from the newest complete checkpoint.

    Example: multitask job runs/first
    """
    from multitask.training.job import run_job
    from multitask.training.train import train_with_display

    def say(message: str) -> None:
        typer.echo(f"- {message}", err=True)

    code = run_job(run, source, train=lambda it: train_with_display(it, resume=True), say=say)
    if code:
        raise typer.Exit(code)
