"""``multitask prepare``."""

from __future__ import annotations

import typer

from multitask.cli.options import DataDir, OutPath, Sample, SpecPath, default_out, read_spec


def prepare(
    spec: SpecPath, out: OutPath = None, data_dir: DataDir = None, sample: Sample = False
) -> None:
    """Make the data part of a run alone: split, templated mixture, manifest, plan.

    Example: multitask prepare multitask.yaml --out runs/first --data-dir data
    """
    from multitask.data.prepare import prepare as prepare_run

    resolved = read_spec(spec, data_dir, sample)
    run = prepare_run(resolved, default_out(resolved, out))
    typer.echo(run.plan.read_text(encoding="utf-8"))
    typer.echo(f"data: {run.data}")
