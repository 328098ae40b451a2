"""An examination on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multitask.doctor.check import Check
from multitask.doctor.examine import Examination
from multitask.formatting import plural

_STYLES = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[bold red]PROBLEM[/]"}


def print_examination(found: Examination) -> None:
    """Print a line for each check under its heading, what to do below it, and a sum."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=30)
    table.add_column(overflow="fold")
    heading = ""
    for check in found.checks:
        if check.group != heading:
            heading = check.group
            table.add_row("", f"[bold]{escape(heading)}[/]", "")
        table.add_row(_STYLES[check.state], escape(check.name), _words(check))
    console.print(table)
    problems, warnings = found.count("problem"), found.count("warning")
    console.print(
        f"\n{plural(problems, 'problem')}, {plural(warnings, 'warning')}, {found.count('ok')} ok",
        highlight=False,
    )


def _words(check: Check) -> str:
    text = escape(check.found)
    return f"{text}\n[dim]fix:[/] {escape(check.fix)}" if check.fix else text
