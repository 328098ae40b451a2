"""``multitask report``."""

from __future__ import annotations

import typer

from multitask.cli.options import RunPath


def report(run: RunPath) -> None:
    """Write report.html and report.md from a run's evaluations.

    Example: multitask report runs/first
    """
    from multitask.reports.write import write_report
    from multitask.run import Run

    for path in write_report(Run.open(run)):
        typer.echo(f"report: {path}")
