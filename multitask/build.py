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
from multitask.runners import runner_for
from multitask.runners.deepspeed import INSTALL, deepspeed_installed
from multitask.runners.launch import launch_scripts
from multitask.runners.rent import find_gpu, write_rental_files
from multitask.scoring.chat import settled
from multitask.spec import Spec


@dataclass(frozen=True)
class Built:
    """A built run.

    Attributes:
        run: The run directory.
        setup: What was decided.
        validated: Whether the engine's own validator has seen its configuration.
        replaced: Keys of ours that the user's own keys for the engine replaced.
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
    """Make a run directory: data, plan, the files of engine, accelerate and DeepSpeed, scripts.

    Args:
        spec: From :func:`multitask.load_spec`.
        out: The run directory; made whole or not at all.
        validate: Ask the engine's own validator, where it is installed.
        report: Told what is being done, for a progress display.
        progress: Told rows read or written, and rows in all where that is known.
        add_files: Puts further files into the directory before the configuration is written,
            such as a model made on the spot.

    Raises:
        InputError: The spec or its data is wrong, the run does not fit the cluster's memory,
            the engine refuses the configuration, or ``out`` holds something else.
    """
    out = Path(out)
    # Wrong keys, and a model that cannot fit, end it before the work.
    model = model_info(spec.model, out)
    runner = runner_for(model)
    _check(decide(spec, model))
    find_gpu(load_cluster(spec.cluster))
    check = validate and runner.installed()
    with ExitStack() as stack:
        # Started first: it takes longer to import than most data to prepare.
        validator = stack.enter_context(runner.validator()) if check else None
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
            found = runner.check_template(runner.config(setup), tokenizer, stage)
            refuse(found, where=_OWN_KEYS)
        for warning in _check(setup):
            report(f"warning: {warning}")
        write_launch_files(run, setup)
        with run.plan.open("a", encoding="utf-8") as plan:
            plan.write(plan_section(setup))
        if validator is not None:
            report(f"asking {runner.name}'s validator")
            validator(run, setup)
        if run.deepspeed.is_file() and not deepspeed_installed():
            report(f"warning: deepspeed.json was not checked; to train this run: {INSTALL}")
    return Built(Run(out), setup, validated=check, replaced=runner.replaced(setup))


def _check(setup: Setup) -> tuple[str, ...]:
    """Check the configuration without the engine; the warnings."""
    runner, own = runner_for(setup.model), setup.spec.engine_keys
    runner.refuse(setup)
    findings = runner.check(setup)
    mine = [finding for finding in findings if _root(finding) not in own]
    theirs = [finding for finding in findings if _root(finding) in own]
    warnings = refuse(theirs, where=_OWN_KEYS) + refuse(map(_in_spec, mine), where="the spec")
    return tuple(str(warning) for warning in warnings)


def _root(finding: Check) -> str:
    return re.split(r"[.\[]", finding.place, maxsplit=1)[0]


# Where a spec has them.
_OWN_KEYS = "key 'axolotl'"

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
    """Write what starts a run: the engine's files and ``launch/``."""
    runner = runner_for(setup.model)
    for name, text in runner.files(setup).items():
        (run.root / name).write_text(text, encoding="utf-8")
    # It holds the user's own keys, which may be a login of a service.
    (run.root / runner.file).chmod(0o600)
    rented = write_rental_files(setup, run.root)
    run.launch.mkdir()
    for name, content in {**launch_scripts(setup.cluster, runner), **rented}.items():
        path = run.launch / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o755 if name.endswith(".sh") else 0o644)
