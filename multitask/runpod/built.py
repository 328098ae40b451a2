"""Build a run for a shape, and build it anew for the next one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from multitask.build import build_config
from multitask.data.workload import Workload, workload_of
from multitask.errors import InputError
from multitask.models import ModelInfo, model_info
from multitask.planning.compare import quick_workload
from multitask.run import Run
from multitask.runpod.record import RecordFile
from multitask.spec import Spec, load_spec

Report = Callable[[str], None]


def look(spec: Spec, out: Path, report: Report) -> tuple[ModelInfo, Workload]:
    """What the estimator needs: from the run where it is built, else from the data.

    Raises:
        InputError: The data cannot be read.
    """
    run = Run(out)
    if run.manifest.is_file():
        return model_info(spec.model, out), workload_of(run)
    return model_info(spec.model, out), quick_workload(spec, report)


def build_for(spec: Spec, shape: str, out: Path, report: Report) -> Run:
    """Make the run directory for a shape.

    A run that was built for another shape, and not trained, is built anew in its place: data and
    choices are the same, the launch files are not.

    Args:
        spec: The user's choices.
        shape: Name of the cluster.
        out: The run directory.
        report: Told what is being done.

    Raises:
        InputError: The spec is wrong, ``out`` holds something else, or a trained run.
    """
    wanted = spec.model_copy(update={"cluster": shape})
    run = Run(out)
    if not run.spec.is_file():
        build_config(wanted, out, report=report)
        return run
    if run.model.exists() and RecordFile(out).read() is None:
        raise InputError(
            "the run has been trained here already",
            where=run.model,
            fix="choose another --out",
        )
    there = load_spec(out)
    if there.to_yaml() == wanted.to_yaml():
        return run
    same = there.model_copy(update={"cluster": shape}).to_yaml() == wanted.to_yaml()
    if not same or Path(spec.model).is_relative_to(out.resolve()):
        build_config(wanted, out, report=report)  # says which file would change
        return run
    report(f"building the run again, for {shape}")
    _replace(wanted, out, report)
    return run


def _replace(spec: Spec, out: Path, report: Report) -> None:
    """Build beside ``out``, then put each new file in the place of the old one."""
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        fresh = Path(folder) / out.name
        build_config(spec, fresh, report=report)
        for stale in (out / "launch", out / "deepspeed.json"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        for path in sorted(fresh.rglob("*")):
            if path.is_file():
                target = out / path.relative_to(fresh)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
