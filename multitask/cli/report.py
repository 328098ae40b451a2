"""``multitask report``."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.cli.options import RunPath


def report(
    run: RunPath,
    name: Annotated[
        str | None,
        typer.Option(help="The evaluation it is about.", show_default="trained, or the only one"),
    ] = None,
) -> None:
    """Write report.html and report.md from a run's evaluations, and print the verdicts.

    Example: multitask report runs/first
    """
    from multitask.reports.load import gather
    from multitask.reports.terminal import print_summary
    from multitask.reports.write import write_report
    from multitask.run import Run

    opened = Run.open(run)
    found = gather(opened, name)
    print_summary(found)
    for path in write_report(opened, found):
        typer.echo(f"report: {path}")
