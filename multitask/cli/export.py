"""``multitask export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multitask.cli.options import Checkpoint, RunPath


def export(
    run: RunPath,
    lm_eval: Annotated[
        Path,
        typer.Option(
            "--lm-eval", metavar="DIR", help="The folder to make, for lm_eval's --include_path."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|ID",
            help="The model whose chat template is used.",
            show_default="the run's trained one",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N rows of each task.")
    ] = None,
) -> None:
    """Write every task of a run so that lm-evaluation-harness reproduces its accuracy.

    Example: multitask export runs/first --lm-eval runs/first-lm-eval
    """
    from multitask.evaluation.evaluate import chosen_model
    from multitask.evaluation.export import export_lm_eval
    from multitask.evaluation.models import consolidate, load
    from multitask.evaluation.requests import Settings, read_inputs
    from multitask.run import Run

    opened = Run.open(run)
    settings = Settings(calibration="none")
    choice = chosen_model(opened, model, checkpoint)
    chosen = str(model) if choice is None else str(consolidate(opened, choice, typer.echo))
    inputs = read_inputs(opened, split, limit, settings)
    loaded, _ = load(opened, chosen, settings)
    export_lm_eval(opened, lm_eval, loaded, inputs.tasks, inputs.rows)
    for task, rows in inputs.rows.items():
        typer.echo(f"multitask_{task}: {len(rows):,} rows")
    typer.echo(f"how to run it: {lm_eval / 'README.md'}")
