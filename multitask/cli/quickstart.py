"""``multitask quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    out: Annotated[
        Path, typer.Option("--out", metavar="RUN", help="The run directory to make.")
    ] = Path("multitask-quickstart"),
) -> None:
    """Run everything once: embedded sample, toy model, real Axolotl, on this CPU.

    Build, train, score and report in a few minutes, with nothing downloaded. The toy shows that
    the plumbing works here; its scores say nothing about quality.

    Example: multitask quickstart --out /tmp/first-run
    """
    from multitask.quickstart import run_quickstart

    run_quickstart(out)
