"""``multitask evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.cli.options import RunPath


def evaluate(
    run: RunPath,
    model: Annotated[
        str | None,
        typer.Option(metavar="PATH|ID", help="Score this model. [default: the run's trained one]"),
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    name: Annotated[
        str | None, typer.Option(help="Name of the evaluation. [default: the model's]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score only the first N rows of each task.")
    ] = None,
) -> None:
    """Score a model on every task of a run, exactly, over the task's closed label set.

    Example: multitask evaluate runs/first --split test
    """
    from multitask.reports.terminal import print_results
    from multitask.run import Run
    from multitask.scoring.evaluate import evaluate as evaluate_run
    from multitask.terminal import progress_bar

    opened = Run.open(run)
    with progress_bar() as bar:
        outcome = evaluate_run(
            opened, model=model, split=split, name=name, limit=limit, progress=bar.update
        )
    print_results(outcome.results)
    typer.echo(f"results: {outcome.directory / 'results.json'}\nnext: multitask report {run}")
