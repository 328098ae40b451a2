"""``multitask init``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from multitask.evaluation.transfer import BudgetKind

_SINGLE = "single-task"


def init(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Where the spec is written; of single-task, a folder.",
            show_default="multitask.yaml, or RUN-single-task",
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="Which example to start from; or single-task: a spec for each task of --from "
            "alone, to see what sharing one model gives and takes."
        ),
    ] = "default",
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="The multi-task run, for single-task."),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="For single-task. rows: each row is seen as often as in RUN. steps: as many "
            "optimizer steps as RUN took."
        ),
    ] = "rows",
) -> None:
    """Write a commented spec to start from, or the single-task specs of a run.

    Example: multitask init multitask.yaml

    Example: multitask init --preset single-task --from runs/first
    """
    from multitask.errors import InputError

    if preset == _SINGLE:
        _single_task(path, source, budget)
        return
    if source is not None or budget != "rows":
        raise InputError("--from and --budget belong to one preset", fix=f"add --preset {_SINGLE}")
    _example(path or Path("multitask.yaml"), preset)


def _example(path: Path, preset: str) -> None:
    from multitask.errors import InputError, did_you_mean
    from multitask.resources import config_names, resource_dir
    from multitask.run import write_atomic

    presets = config_names("examples")
    if preset not in presets:
        raise InputError(
            f"unknown preset {preset!r}", fix=did_you_mean(preset, [*presets, _SINGLE])
        )
    if path.exists():
        raise InputError("the file exists", where=path, fix="choose another path")
    # By this line editors with a YAML language server complete and check the spec's keys.
    schema = f"# yaml-language-server: $schema={resource_dir('configs/schema')}/spec.schema.json\n"
    example = (resource_dir("configs/examples") / f"{preset}.yaml").read_text(encoding="utf-8")
    write_atomic(path, (schema + example).encode())
    typer.echo(f"spec: {path}\nnext: multitask build-config {path}")


def _single_task(path: Path | None, source: Path | None, budget: str) -> None:
    from multitask.errors import InputError, did_you_mean
    from multitask.evaluation.transfer import write_single_task_specs

    if source is None:
        raise InputError("which run?", fix="add --from RUN")
    kinds: dict[str, BudgetKind] = {"rows": "rows", "steps": "steps"}
    if budget not in kinds:
        raise InputError(f"unknown budget {budget!r}", fix=did_you_mean(budget, kinds))
    base = source.name if source.is_dir() else source.stem
    out = path or source.with_name(f"{base}-{_SINGLE}")
    written = write_single_task_specs(source, out, kinds[budget])
    lines, compare = [], ["multitask", "evaluate", str(source)]
    for single, file in written:
        typer.echo(f"spec: {file}")
        run = str(source.with_name(f"{base}-{single.task}"))
        lines.append(shlex.join(["multitask", "build-config", str(file), "--out", run]))
        lines.append(shlex.join(["multitask", "train", run]))
        compare += ["--compare", run]
    typer.echo("\n".join(["next:", *lines, shlex.join(compare)]))
