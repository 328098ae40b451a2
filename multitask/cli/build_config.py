"""``multitask build-config``."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.cli.options import DataDir, OutPath, Sample, SpecPath, default_out, read_spec


def build_config(
    spec: SpecPath,
    out: OutPath = None,
    data_dir: DataDir = None,
    sample: Sample = False,
    no_validate: Annotated[
        bool, typer.Option("--no-validate", help="Skip Axolotl's own validator.")
    ] = False,
) -> None:
    """Make a run from a spec: data, plan, axolotl.yaml, accelerate.yaml, launch scripts.

    Example: multitask build-config multitask.yaml --out runs/first --data-dir data
    """
    from multitask.build import build_config as build
    from multitask.errors import naming
    from multitask.terminal import progress_bar

    resolved = read_spec(spec, data_dir, sample)
    with naming(spec), progress_bar(after=2.0) as bar:
        built = build(
            resolved,
            default_out(resolved, out),
            validate=not no_validate,
            report=lambda message: typer.echo(f"- {message}", err=True),
            progress=bar.update,
        )
    typer.echo(built.run.plan.read_text(encoding="utf-8"))
    if built.replaced:
        typer.echo(f"your `axolotl` keys replace ours: {', '.join(built.replaced)}")
    if built.validated:
        typer.echo("axolotl.yaml: accepted by Axolotl's validator")
    else:
        typer.echo("axolotl.yaml: NOT validated (Axolotl is not installed, or --no-validate)")
    typer.echo(f"run: {built.run.root}\nnext: multitask train {built.run.root}")
    if (rented := built.run.launch / "dstack.yml").is_file():
        typer.echo(f"to rent its cluster: see the head of {rented} or of sky.yml")
