"""Look at everything at once, and put it in order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multitask.checks import Check, warning
from multitask.doctor import files, gpus, machine
from multitask.doctor.bounded import NoAnswerError, Pending
from multitask.doctor.cluster import cluster_checks
from multitask.doctor.logins import HUB_SECONDS, HubQuestions, wandb_check
from multitask.doctor.packages import (
    find_plugin,
    import_checks,
    package_checks,
    plugin_check,
    torch_cuda,
)
from multitask.doctor.subject import Subject, open_subject
from multitask.formatting import plural

# A run on a disk that does not answer; two questions to a GPU's driver; hashes of much data.
_READ_SECONDS, _GPU_SECONDS, _FILE_SECONDS, _DISK_SECONDS = 20.0, 45.0, 60.0, 10.0


@dataclass(frozen=True)
class Examination:
    """All checks.

    Attributes:
        checks: In the order in which they are shown.
    """

    checks: tuple[Check, ...]

    def count(self, severity: str) -> int:
        """How many checks ended so."""
        return sum(check.severity == severity for check in self.checks)

    @property
    def healthy(self) -> bool:
        """Whether there is no problem; warnings are allowed."""
        return self.count("problem") == 0

    def record(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "healthy": self.healthy,
            "problems": self.count("problem"),
            "warnings": self.count("warning"),
            "checks": [
                {
                    "group": check.place,
                    "name": check.question,
                    "state": check.severity,
                    "found": check.answer,
                    "fix": check.remedy,
                }
                for check in self.checks
            ],
        }


def examine(
    path: Path | None = None,
    *,
    imports: bool = False,
    hub_seconds: float = HUB_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> Examination:
    """Look at this machine, and at a spec or a run that is to be trained on it.

    Nothing is changed, and nothing heavy is imported into this process. Every question has a time
    limit.

    Args:
        path: A spec file or a run directory; None: the machine alone.
        imports: Import torch, compiled packages and the plugins in processes of their own, which
            takes from ten seconds to minutes.
        hub_seconds: How long the Hub may take to answer a question.
        environment: The variables to judge; None: this process's.

    Raises:
        InputError: ``path`` is neither a spec nor a run, or cannot be read.
        NoAnswerError: The disk that ``path`` is on does not answer.
    """
    variables = os.environ if environment is None else environment
    asked_gpus = Pending(gpus.find_gpus, _GPU_SECONDS)
    subject = Pending(lambda: open_subject(path), _READ_SECONDS).get()
    plugin = find_plugin(subject)
    hub = HubQuestions(subject, hub_seconds)
    own_files = Pending(lambda: files.file_checks(subject), _FILE_SECONDS)
    of_machine = Pending(lambda: _machine(subject, hub), _DISK_SECONDS)
    imported = import_checks(subject) if imports else list

    try:
        found = asked_gpus.get()
    except NoAnswerError as error:
        found = gpus.Gpus(failure=f"the driver gives {error}")
    visible = gpus.visible_count(found, variables)
    here = subject.trains_here(visible, variables)
    checks = [
        *package_checks(subject, gpus=visible, trains_here=here, hub_seconds=hub_seconds),
        plugin_check(plugin),
        *imported(),
        *gpus.gpu_checks(found, subject, variables, torch_cuda()),
        *cluster_checks(subject, variables, trains_here=here),
        *hub.checks(trains_here=here),
        wandb_check(subject, variables),
        *_got(of_machine, machine.GROUP, "disk"),
        *_got(own_files, files.GROUP, "files"),
    ]
    return Examination(tuple(checks))


def _machine(subject: Subject, hub: HubQuestions) -> list[Check]:
    return machine.machine_checks(subject, model_is_here=hub.model_is_here())


def _got(pending: Pending[list[Check]], group: str, name: str) -> list[Check]:
    try:
        return pending.get()
    except NoAnswerError as error:
        fix = "a network disk may be gone, or the data is very large; see `df` and `mount`"
        return [warning(group, name, f"not checked: {error}", fix)]


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
        if check.place != heading:
            heading = check.place
            table.add_row("", f"[bold]{escape(heading)}[/]", "")
        table.add_row(_STYLES[check.severity], escape(check.question), _words(check))
    console.print(table)
    problems, warnings = found.count("problem"), found.count("warning")
    console.print(
        f"\n{plural(problems, 'problem')}, {plural(warnings, 'warning')}, {found.count('ok')} ok",
        highlight=False,
    )


def _words(check: Check) -> str:
    text = escape(check.answer)
    return f"{text}\n[dim]fix:[/] {escape(check.remedy)}" if check.remedy else text
