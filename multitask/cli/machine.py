"""``multitask machine``, which the image starts and nobody else."""

from __future__ import annotations

from typing import Annotated

import typer


def machine(
    action: Annotated[
        str, typer.Argument(metavar="ACTION", help="serve, guard, remove or environment.")
    ] = "serve",
) -> None:
    """Do a rented machine's part of a job; the job is in the environment (docs/image.md).

    Example: multitask machine environment
    """
    from multitask.machine.__main__ import main

    raise typer.Exit(main([action]))
