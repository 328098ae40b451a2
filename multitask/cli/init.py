"""``multitask init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    path: Annotated[Path, typer.Argument(help="Where the spec is written.")] = Path(
        "multitask.yaml"
    ),
    preset: Annotated[str, typer.Option(help="The example to start from.")] = "default",
) -> None:
    """Write a commented spec to start from.

    Example: multitask init multitask.yaml
    """
    from multitask.errors import InputError, did_you_mean
    from multitask.resources import config_names, resource_dir
    from multitask.run import write_atomic

    presets = config_names("examples")
    if preset not in presets:
        raise InputError(f"unknown preset {preset!r}", fix=did_you_mean(preset, presets))
    if path.exists():
        raise InputError("the file exists", where=path, fix="choose another path")
    write_atomic(path, (resource_dir("configs/examples") / f"{preset}.yaml").read_bytes())
    typer.echo(f"spec: {path}\nnext: multitask build-config {path}")
