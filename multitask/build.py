"""``build_config``: from a spec to a run directory that is ready to train."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from multitask.checks import Check, refuse
from multitask.cluster import load_cluster
from multitask.data.prepare import (
    Prepared,
    Progress,
    Report,
    no_garbage_collection,
    no_progress,
    prepare_tasks,
    write_data,
)
from multitask.data.tokens import load_tokenizer, workload_of
from multitask.models import model_info
from multitask.planning.compare import plan_section
from multitask.planning.decide import decide
from multitask.planning.setup import Setup
from multitask.run import Run, staged
from multitask.runners.axolotl.checks import check_config, plan_of
from multitask.runners.axolotl.file import axolotl_file
from multitask.runners.axolotl.keys import check_template
from multitask.runners.axolotl.validate import AxolotlValidator, axolotl_installed
from multitask.runners.deepspeed import (
    INSTALL,
    check_deepspeed,
    deepspeed_installed,
    deepspeed_json,
)
from multitask.runners.launch import accelerate_yaml, launch_scripts
from multitask.runners.rent import find_gpu, write_rental_files
from multitask.scoring.chat import settled
from multitask.spec import Spec


@dataclass(frozen=True)
class Built:
    """A built run.

    Attributes:
        run: The run directory.
        setup: What was decided.
        validated: Whether Axolotl's validator has seen its configuration.
        replaced: Keys of ours that the spec's own ``axolotl`` keys replaced.
    """

    run: Run
    setup: Setup
    validated: bool
    replaced: tuple[str, ...]


def build_config(
    spec: Spec,
    out: str | Path,
    *,
    validate: bool = True,
    report: Report = lambda _: None,
    progress: Progress = no_progress,
    add_files: Callable[[Path, Prepared], None] = lambda _root, _prepared: None,
) -> Built:
    """Make a run directory: data, plan, Axolotl, accelerate and DeepSpeed files, launch scripts.

    Args:
        spec: From :func:`multitask.load_spec`.
        out: The run directory; made whole or not at all.
        validate: Ask Axolotl's validator, where Axolotl is installed.
        report: Told what is being done, for a progress display.
        progress: Told rows read or written, and rows in all where that is known.
        add_files: Puts further files into the directory before the configuration is written,
            such as a model made on the spot.

    Raises:
        InputError: The spec or its data is wrong, the run does not fit the cluster's memory,
            Axolotl refuses the configuration, or ``out`` holds something else.
    """
    out = Path(out)
    # Wrong keys, and a model that cannot fit, end it before the work.
    _check(decide(spec, model_info(spec.model, out)))
    find_gpu(load_cluster(spec.cluster))
    check = validate and axolotl_installed()
    with ExitStack() as stack:
        # Started first: it takes longer to import than most data to prepare.
        validator = stack.enter_context(AxolotlValidator()) if check else None
        stack.enter_context(no_garbage_collection())
        stage = stack.enter_context(staged(out))
        prepared = prepare_tasks(spec, report=report, progress=progress)
        run = Run(stage)
        run.spec.write_text(_with_its_cluster(spec, run).to_yaml(), encoding="utf-8")
        add_files(stage, prepared)
        write_data(prepared, spec, stage, progress=progress)
        tokenizer = load_tokenizer(spec, stage)
        info = settled(model_info(spec.model, stage), tokenizer, stage)
        setup = decide(spec, info, workload_of(run))
        if tokenizer is not None:
            config = axolotl_file(setup).config
            refuse(check_template(config, tokenizer, stage), where="key 'axolotl'")
        for warning in _check(setup):
            report(f"warning: {warning}")
        write_launch_files(run, setup)
        with run.plan.open("a", encoding="utf-8") as plan:
            plan.write(plan_section(setup))
        if validator is not None:
            report("asking Axolotl's validator")
            _validate(validator, run, setup)
        if run.deepspeed.is_file() and not deepspeed_installed():
            report(f"warning: deepspeed.json was not checked; to train this run: {INSTALL}")
    return Built(Run(out), setup, validated=check, replaced=axolotl_file(setup).replaced)


def _check(setup: Setup) -> tuple[str, ...]:
    """Check the configuration without Axolotl; the warnings."""
    spec = setup.spec
    findings = check_config(plan_of(setup))
    mine = [finding for finding in findings if _root(finding) not in spec.axolotl]
    theirs = [finding for finding in findings if _root(finding) in spec.axolotl]
    warnings = refuse(theirs, where="key 'axolotl'") + refuse(map(_in_spec, mine), where="the spec")
    return tuple(str(warning) for warning in warnings)


def _root(finding: Check) -> str:
    return re.split(r"[.\[]", finding.place, maxsplit=1)[0]


# The spec's names of keys of ours.
_SPEC_KEYS = {
    "num_epochs": "epochs",
    "save_steps": "checkpoint.save_steps",
    "save_total_limit": "checkpoint.keep",
    "base_model": "model",
}


def _in_spec(finding: Check) -> Check:
    """A finding about a key of ours, with the spec's name of it."""
    root = _root(finding)
    place = finding.place.removeprefix("multitask.")
    return replace(finding, place=_SPEC_KEYS.get(root, place))


def _with_its_cluster(spec: Spec, run: Run) -> Spec:
    """Put a cluster file of the user's into the run, which is copied to machines without it."""
    if not spec.cluster.endswith((".yaml", ".yml")):
        return spec
    cluster = load_cluster(spec.cluster)
    text = yaml.safe_dump(cluster.model_dump(exclude_none=True), sort_keys=False)
    run.cluster.write_text(text, encoding="utf-8")
    return spec.model_copy(update={"cluster": run.cluster.name})


def write_launch_files(run: Run, setup: Setup) -> None:
    """Write ``axolotl.yaml``, ``accelerate.yaml``, ``deepspeed.json`` and ``launch/`` of a run."""
    run.axolotl.write_text(axolotl_file(setup).to_yaml(), encoding="utf-8")
    run.accelerate.write_text(accelerate_yaml(setup.cluster), encoding="utf-8")
    stage = setup.topology.sharding.deepspeed_stage
    if stage is not None:
        text = deepspeed_json(stage, offload=setup.topology.cpu_offload)
        run.deepspeed.write_text(text, encoding="utf-8")
    rented = write_rental_files(setup, run.root)
    run.launch.mkdir()
    for name, content in {**launch_scripts(setup.cluster), **rented}.items():
        path = run.launch / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o755 if name.endswith(".sh") else 0o644)


def _validate(validator: AxolotlValidator, run: Run, setup: Setup) -> None:
    """Ask Axolotl, accelerate and DeepSpeed for their own opinion of the files."""
    validator.validate(run.axolotl, setup.cluster)
    validator.validate_accelerate(run.accelerate)
    if run.deepspeed.is_file() and deepspeed_installed():
        config = axolotl_file(setup).config
        refuse(check_deepspeed(run.deepspeed, config, world_size=setup.cluster.world_size))
