"""``multitask estimate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multitask.cli.options import DataDir, Sample, read_spec

if TYPE_CHECKING:
    from multitask.estimate import Row


def estimate(
    spec: Annotated[Path, typer.Argument(metavar="SPEC|RUN", help="A spec file, or a built run.")],
    data_dir: DataDir = None,
    sample: Sample = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show every method on every cluster.")
    ] = False,
) -> None:
    """Estimate memory, time, disk and cost of a run, beside other methods and clusters.

    Example: multitask estimate multitask.yaml --data-dir data
    """
    from rich.console import Console
    from rich.table import Table

    from multitask.errors import naming
    from multitask.planning.compare import HEADER, cells, compare_plans, plan_section
    from multitask.run import Run

    run = Run.open(spec) if spec.is_dir() and (spec / "data" / "manifest.json").is_file() else None
    resolved = read_spec(spec, data_dir, sample)
    with naming(spec):
        found = compare_plans(
            resolved, run, report=lambda message: typer.echo(f"- {message}", err=True)
        )
    typer.echo(plan_section(found.setup).lstrip("\n"))
    estimated = found.setup.estimate
    if estimated is not None and estimated.why_not:
        typer.echo(f"DOES NOT FIT: {estimated.why_not}\n")
    rows = [
        row
        for row in found.rows
        if every or resolved.method == row.method or resolved.cluster == row.cluster
    ]
    table = Table(*HEADER, title="What else could be rented (cheapest first)", title_justify="left")
    for column in table.columns[3:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*cells(row), style=_style(row, resolved.cluster, resolved.method))
    Console(width=None if Console().is_terminal else 160).print(table)
    if not every:
        typer.echo("the spec's method everywhere, and every method on its cluster; --all for all")


def _style(row: Row, cluster: str, method: str) -> str:
    if not row.fits:
        return "dim"
    return "bold" if (row.cluster, row.method) == (cluster, method) else ""
