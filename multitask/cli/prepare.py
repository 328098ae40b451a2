"""``multitask prepare``."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.cli.options import DataDir, OutPath, Sample, SpecPath, default_out, read_spec


def prepare(
    spec: SpecPath,
    out: OutPath = None,
    data_dir: DataDir = None,
    sample: Sample = False,
    show: Annotated[
        int, typer.Option(metavar="N", min=0, help="Print N finished examples of each task.")
    ] = 0,
) -> None:
    """Make only the data part of a run: split, templated mixture, manifest, plan.

    With --show, prints examples as the model will see them, with what is trained on marked.

    Example: multitask prepare multitask.yaml --out runs/first --data-dir data --show 3
    """
    from multitask.data.prepare import prepare as prepare_run
    from multitask.data.tokens import show_examples
    from multitask.errors import naming
    from multitask.terminal import progress_bar

    resolved = read_spec(spec, data_dir, sample)
    with naming(spec), progress_bar(after=2.0) as bar:
        run = prepare_run(
            resolved,
            default_out(resolved, out),
            report=lambda message: typer.echo(f"- {message}", err=True),
            progress=bar.update,
        )
    typer.echo(run.plan.read_text(encoding="utf-8"))
    if show:
        typer.echo(show_examples(run, resolved, show))
    typer.echo(f"data: {run.data}")
