"""``build_config``: from a spec to a run directory that is ready to train."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from multitask.cluster import load_cluster
from multitask.data.prepare import Prepared, Report, prepare_tasks
from multitask.data.write import Progress, no_garbage_collection, no_progress, write_data
from multitask.run import Run, staged
from multitask.runners.accelerate import accelerate_yaml
from multitask.runners.axolotl import axolotl_config, axolotl_yaml
from multitask.runners.checks import check_config
from multitask.runners.finding import refuse
from multitask.runners.launch import launch_scripts
from multitask.runners.model_info import model_info
from multitask.runners.validate import AxolotlValidator, axolotl_installed
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
        progress: Told rows written and rows in all.
        add_files: Puts further files into the directory before the configuration is written,
            such as a model made on the spot.

    Raises:
        InputError: The spec or its data is wrong, Axolotl refuses the configuration, or ``out``
            holds something else.
    """
    out = Path(out)
    cluster = load_cluster(spec.cluster)
    # Wrong keys end it before the work.
    planned = axolotl_config(spec, cluster, model_info(spec.model, out))
    for warning in refuse(
        check_config(
            planned,
            on_cpu=cluster.on_cpu,
            world_size=cluster.world_size,
            compute_capability=cluster.compute_capability,
        ),
        where="key 'axolotl'",
    ):
        report(f"warning: {warning}")
    check = validate and axolotl_installed()
    with ExitStack() as stack:
        # Started first: it takes longer to import than most data to prepare.
        validator = stack.enter_context(AxolotlValidator()) if check else None
        stack.enter_context(no_garbage_collection())
        stage = stack.enter_context(staged(out))
        prepared = prepare_tasks(spec, report=report)
        run = Run(stage)
        run.spec.write_text(spec.to_yaml(), encoding="utf-8")
        add_files(stage, prepared)
        write_data(prepared, spec, stage, progress=progress)
        config = axolotl_config(spec, cluster, model_info(spec.model, stage))
        run.axolotl.write_text(axolotl_yaml(config), encoding="utf-8")
        run.accelerate.write_text(accelerate_yaml(cluster), encoding="utf-8")
        run.launch.mkdir()
        for name, content in launch_scripts(cluster).items():
            script = run.launch / name
            script.write_text(content, encoding="utf-8")
            script.chmod(0o755)
        if validator is not None:
            report("asking Axolotl's validator")
            validator.validate(run.axolotl, cluster)
            validator.validate_accelerate(run.accelerate)
    return Built(run=Run(out), validated=check)
