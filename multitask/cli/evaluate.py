"""``multitask evaluate``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from multitask.cli import evaluate_options as option
from multitask.cli.options import Checkpoint, RunPath

if TYPE_CHECKING:
    from multitask.evaluation.requests import Settings


def evaluate(
    run: RunPath,
    model: option.Model = None,
    checkpoint: Checkpoint = None,
    split: option.Split = "test",
    name: option.Name = None,
    limit: option.Limit = None,
    base: option.Base = False,
    against: option.Against = None,
    compare: option.Compare = None,
    general: option.General = None,
    baselines: option.Baselines = True,
    distribution: option.Distribution = True,
    calibration: option.Calibration = "temperature",
    target_precision: option.TargetPrecision = 0.95,
    generate: option.Generate = 100,
    option_texts: option.OptionTexts = True,
    permutations: option.Permutations = False,
    dtype: option.Dtype = None,
    quantisation: option.Quantisation = None,
    processes: option.Processes = 1,
    token_budget: option.TokenBudget = None,
    restart: option.Restart = False,
) -> None:
    """Score a model on every task of a run, exactly, over the task's closed label set.

    Interrupted, it goes on where it stopped when it is started again.

    Example: multitask evaluate runs/first --base --processes 2
    """
    from multitask.evaluation.distributed import is_started_rank, launch

    if processes > 1 and not is_started_rank():
        raise typer.Exit(launch(sys.argv[1:], processes))
    from multitask.data.general import read_entries
    from multitask.evaluation.requests import Settings

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
    wanted: dict[str, Any] = {"model": model, "split": split, "name": name, "limit": limit}
    wanted |= {
        "checkpoint": checkpoint,
        "base": base,
        "against": against or (),
        "general": read_entries(general or ()),
    }
    _evaluate(run, compare or (), settings, restart=restart, **wanted)


def _evaluate(run: Path, compare: Sequence[Path], settings: Settings, **wanted: Any) -> None:
    from rich.console import Console

    from multitask.evaluation.distributed import join_ranks
    from multitask.evaluation.evaluate import evaluate as evaluate_run
    from multitask.evaluation.transfer import FILE_NAME, compare_runs
    from multitask.quiet import quiet_libraries
    from multitask.reports.terminal import print_forgetting, print_interference, print_results
    from multitask.run import Run
    from multitask.terminal import progress_bar

    opened, singles = Run.open(run), [Run.open(path) for path in compare]
    quiet_libraries()
    console = Console(stderr=True)
    leads, interference = join_ranks().leads, None

    def report(message: str) -> None:
        if leads:
            console.print(message, highlight=False)

    try:
        with progress_bar() as bar:
            wanted |= {"settings": settings, "report": report, "progress": bar.update}
            if singles:
                outcome, interference = compare_runs(opened, singles, **wanted)
            else:
                outcome = evaluate_run(opened, **wanted)
    except KeyboardInterrupt:
        typer.echo("to go on where it stopped, start the same command again", err=True)
        raise
    if not leads:
        return
    print_results(outcome.results)
    if outcome.general is not None:
        print_forgetting(outcome.general)
    if interference is not None:
        print_interference(interference, outcome.results)
        typer.echo(f"interference: {outcome.directory / FILE_NAME}")
    typer.echo(f"results: {outcome.directory / 'results.json'}\nnext: multitask report {run}")
