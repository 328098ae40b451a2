"""``build_config``: from a spec to a run directory that is ready to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multitask.data.prepare import Prepared, Progress, Report, no_progress, prepare_tasks
from multitask.data.workload import workload_of
from multitask.data.write import no_garbage_collection, write_data
from multitask.models import model_info
from multitask.planning.decide import decide
from multitask.planning.setup import Setup
from multitask.run import Run, staged
from multitask.runners.accelerate import accelerate_yaml, node_script
from multitask.runners.axolotl import axolotl_file
from multitask.runners.validate import axolotl_installed, validate_axolotl
from multitask.spec import Spec


@dataclass(frozen=True)
class Built:
    """A built run.

    Attributes:
        run: The run directory.
        validated: Whether Axolotl's validator has seen its configuration.
    """

    run: Run
    validated: bool


def build_config(
    spec: Spec,
    out: str | Path,
    *,
    validate: bool = True,
    report: Report = lambda _: None,
    progress: Progress = no_progress,
    add_files: Callable[[Path, Prepared], None] = lambda _root, _prepared: None,
) -> Built:
    """Make a run directory: data, plan, Axolotl and accelerate files, launch scripts.

    Args:
        spec: From :func:`multitask.load_spec`.
        out: The run directory; made whole or not at all.
        validate: Ask Axolotl's validator, where Axolotl is installed.
        report: Told what is being done, for a progress display.
        progress: Told rows read or written, and rows in all where that is known.
        add_files: Puts further files into the directory before the configuration is written,
            such as a model made on the spot.

    Raises:
        InputError: The spec or its data is wrong, Axolotl refuses the configuration, or ``out``
            holds something else.
    """
    out = Path(out)
    decide(spec, model_info(spec.model, out))  # wrong keys end it before the work
    check = validate and axolotl_installed()
    with no_garbage_collection(), staged(out) as stage:
        prepared = prepare_tasks(spec, report=report, progress=progress)
        run = Run(stage)
        run.spec.write_text(spec.to_yaml(), encoding="utf-8")
        add_files(stage, prepared)
        write_data(prepared, spec, stage, progress=progress)
        setup = decide(spec, model_info(spec.model, stage), workload_of(run))
        write_launch_files(run, setup)
        if check:
            report("asking Axolotl's validator (about 15 s)")
            validate_axolotl(run.axolotl, setup.cluster)
    return Built(run=Run(out), validated=check)


def write_launch_files(run: Run, setup: Setup) -> None:
    """Write ``axolotl.yaml``, ``accelerate.yaml`` and ``launch/`` into a run directory."""
    run.axolotl.write_text(axolotl_file(setup).to_yaml(), encoding="utf-8")
    run.accelerate.write_text(accelerate_yaml(setup.cluster), encoding="utf-8")
    run.launch.mkdir()
    script = run.launch / "node.sh"
    script.write_text(node_script(setup.cluster), encoding="utf-8")
    script.chmod(0o755)
