"""``multitask evaluate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multitask.cli.options import RunPath

if TYPE_CHECKING:
    from multitask.evaluation.settings import Settings

_MODEL = "Model"
_STATISTICS = "Probabilities and comparisons"
_WORK = "How the work is done"


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
    base: Annotated[
        bool,
        typer.Option(
            "--base",
            help="Evaluate the untuned base model too, as 'base'.",
            rich_help_panel=_STATISTICS,
        ),
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Compare with this earlier evaluation, row by row; repeatable.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    distribution: Annotated[
        bool,
        typer.Option(
            "--distribution/--no-distribution",
            help="Score all labels that matter, for log loss, calibration error and confidence; "
            "without, only the best label is proven, several times faster.",
            rich_help_panel=_STATISTICS,
        ),
    ] = True,
    calibration: Annotated[
        str,
        typer.Option(
            help="temperature, contextual or none; fitted on validation, for the test split.",
            rich_help_panel=_STATISTICS,
        ),
    ] = "temperature",
    target_precision: Annotated[
        float,
        typer.Option(
            help="Precision wanted of answers that are not handed over to a person.",
            rich_help_panel=_STATISTICS,
        ),
    ] = 0.95,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="Add the majority label and TF-IDF + logistic regression.",
            rich_help_panel=_STATISTICS,
        ),
    ] = True,
    generate: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Rows of each task that are also answered freely, as when deployed.",
        ),
    ] = 100,
    option_texts: Annotated[
        bool,
        typer.Option(
            "--option-texts/--no-option-texts",
            help="Score multiple choice both by letter and by the options' texts.",
        ),
    ] = True,
    permutations: Annotated[
        bool,
        typer.Option(
            "--permutations",
            help="Ask multiple choice in every cyclic order of the options.",
        ),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16.", rich_help_panel=_MODEL),
    ] = None,
    quantisation: Annotated[
        str | None,
        typer.Option(help="4bit or 8bit; needs a GPU.", rich_help_panel=_MODEL),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Share the work among N processes of this machine, one GPU each if there are any.",
            rich_help_panel=_WORK,
        ),
    ] = 1,
    token_budget: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Most tokens in a batch; halves by itself when memory runs out.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Throw away what an interrupted evaluation of this name has.",
            rich_help_panel=_WORK,
        ),
    ] = False,
) -> None:
    """Score a model on every task of a run, exactly, over the task's closed label set.

    Interrupted, it goes on where it stopped when it is started again.

    Example: multitask evaluate runs/first --base --processes 2
    """
    from multitask.evaluation.launch import is_started_rank, launch

    if processes > 1 and not is_started_rank():
        raise typer.Exit(launch(sys.argv[1:], processes))
    from multitask.evaluation.settings import Settings

    chosen: Any = {"calibration": calibration, "quantisation": quantisation}
    settings = Settings(
        distribution=distribution,
        target_precision=target_precision,
        generate=generate,
        option_texts=option_texts,
        permutations=permutations,
        baselines=baselines,
        dtype=dtype,
        token_budget=token_budget,
        **chosen,
    )
    wanted = {"model": model, "split": split, "name": name, "limit": limit}
    _evaluate(run, settings, base=base, against=against or (), restart=restart, **wanted)


def _evaluate(run: RunPath, settings: Settings, **wanted: Any) -> None:
    from rich.console import Console

    from multitask.evaluation.evaluate import evaluate as evaluate_run
    from multitask.evaluation.world import join_world
    from multitask.quiet import quiet_libraries
    from multitask.reports.terminal import print_results
    from multitask.run import Run
    from multitask.terminal import progress_bar

    opened = Run.open(run)
    quiet_libraries()
    console = Console(stderr=True)
    try:
        with progress_bar() as bar:
            outcome = evaluate_run(
                opened,
                settings=settings,
                progress=bar.update,
                report=lambda message: console.print(message, highlight=False),
                **wanted,
            )
    except KeyboardInterrupt:
        typer.echo("to go on where it stopped, start the same command again", err=True)
        raise
    if not join_world().leads:
        return
    print_results(outcome.results)
    typer.echo(f"results: {outcome.directory / 'results.json'}\nnext: multitask report {run}")
