"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from multitask.spec import Spec

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file.")]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run directory, as build-config makes it.")
]
OutPath = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="RUN", help="The run directory to make.", show_default="runs/NAME"
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder with the files of each task in DIR/TASK/, looked at before the Hub.",
    ),
]
Sample = Annotated[
    bool, typer.Option("--sample", help="Use the small embedded sample instead of real data.")
]


def read_spec(path: Path, data_dir: Path | None, sample: bool) -> Spec:
    """Load a spec and apply the options that override it."""
    from multitask.errors import InputError
    from multitask.spec import load_spec

    spec = load_spec(path)
    if data_dir is not None and sample:
        raise InputError("--data-dir and --sample exclude each other", fix="keep one")
    if data_dir is not None:
        spec = spec.model_copy(update={"data_dir": str(data_dir.resolve()), "sample": False})
    if sample:
        spec = spec.model_copy(update={"data_dir": None, "sample": True})
    return spec


def default_out(spec: Spec, out: Path | None) -> Path:
    """The run directory: what the user said, else ``runs/<name>``."""
    return out if out is not None else Path("runs") / spec.name


Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="best|last|STEP",
        help="Which model of the run's training; `multitask checkpoints` lists the steps.",
        show_default="the spec's `evaluation: {use: ...}`, else the last",
    ),
]
