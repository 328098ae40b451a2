"""``multitask doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SPEC|RUN]",
            help="What is to be trained; without, only the machine is checked.",
        ),
    ] = None,
    imports: Annotated[
        bool,
        typer.Option(
            "--imports",
            help="Also import torch, compiled packages and the plugins, in processes of their own; "
            "takes from ten seconds to minutes.",
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="How long the Hugging Face Hub may take to answer."
        ),
    ] = 2.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine, and a spec or run on it: versions, GPUs, network, logins, disk.

    Nothing is changed, and no training is started. Exit code 0: no problem (warnings allowed);
    1: a problem; 2: SPEC or RUN cannot be read.

    Example: multitask doctor runs/first
    """
    import json

    from multitask.doctor import examine
    from multitask.doctor.examine import print_examination

    found = examine(path, imports=imports, hub_seconds=timeout)
    if as_json:
        typer.echo(json.dumps(found.record(), indent=2, ensure_ascii=False))
    else:
        print_examination(found)
    if not found.healthy:
        raise typer.Exit(1)
