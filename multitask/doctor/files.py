"""A spec that is to be built, or a run that is to be trained: are its own files in order?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from multitask.checks import Check, ok, problem, refused, warning
from multitask.doctor.subject import Subject
from multitask.errors import InputError, MultitaskError
from multitask.files import read_mapping
from multitask.run import SPLITS, Run

GROUP = "spec and run"
_SHOWN = 5


def file_checks(subject: Subject) -> list[Check]:
    """Whether the spec can be trained, and whether the run's files are whole and agree with it."""
    checks = _plan(subject)
    if subject.run is not None:
        checks += _run(subject.run, subject)
    return checks


def _plan(subject: Subject) -> list[Check]:
    spec = subject.spec
    if spec is None:
        return []
    if subject.refusal is not None:
        return [refused(GROUP, "spec", subject.refusal)]
    setup = subject.setup
    assert setup is not None
    tasks = ", ".join(spec.task_names)
    found = f"{spec.model}, method {spec.method}, on {setup.cluster.description}: {tasks}"
    checks = [ok(GROUP, "spec", found)]
    quote = setup.estimate
    if setup.cluster.on_cpu:
        return checks
    if quote is None:
        text = "not known, since the model's sizes are not"
        fix = "download its config.json once (`hf download MODEL config.json`), or give a folder"
        return [*checks, warning(GROUP, "memory of a GPU", text, fix)]
    if quote.fits is False:
        fix = "`multitask estimate` lists what fits"
        return [*checks, problem(GROUP, "memory of a GPU", quote.why_not, fix)]
    if quote.fits:
        text = f"{quote.memory.total:.0f} of {setup.cluster.memory_gb:g} GB, as estimated"
        checks.append(ok(GROUP, "memory of a GPU", text))
    return checks


def _run(run: Run, subject: Subject) -> list[Check]:
    missing = _missing(run)
    if missing:
        names = ", ".join(missing[:_SHOWN])
        fix = f"multitask build-config {run.spec} --out {run.root}"
        return [problem(GROUP, "files", f"missing: {names}", fix), *_data(run)]
    return [
        ok(GROUP, "files", "all there"),
        *_data(run),
        *_configuration(run, subject),
        *_accelerate(run, subject),
        *_since_checkpoint(run),
    ]


def _missing(run: Run) -> list[str]:
    paths = [run.spec, run.manifest, *map(run.split, SPLITS), run.engine_file, run.accelerate]
    paths.append(run.launch / "node.sh")
    # A missing file is in the list; one that cannot be read is told below.
    with suppress(InputError):
        config = read_mapping(run.engine_file)
        if config.get("deepspeed"):
            paths.append(run.root / str(config["deepspeed"]))
    return [str(path.relative_to(run.root)) for path in paths if not path.is_file()]


def _data(run: Run) -> list[Check]:
    """Rows against the manifest's hashes."""
    from multitask.digests import sha256

    name, fix = "data", "build the run again in another directory, or copy it again"
    try:
        files: dict[str, Any] = json.loads(run.manifest.read_text(encoding="utf-8"))["files"]
        wanted = {file: entry["sha256"] for file, entry in files.items()}
        rows = sum(entry["rows"] for entry in files.values())
    except FileNotFoundError:
        return []  # told as missing
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [problem(GROUP, name, f"data/manifest.json cannot be read ({error})", fix)]
    there = [file for file in wanted if (run.data / file).is_file()]
    other = [file for file in there if sha256(run.data / file) != wanted[file]]
    if other:
        text = f"{', '.join(other)}: not the rows that the manifest states"
        return [problem(GROUP, name, text, fix)]
    return [ok(GROUP, name, f"{rows:,} rows, as the manifest states")]


def _read(path: Path) -> dict[str, Any]:
    """A YAML mapping of the run's.

    Raises:
        InputError: It cannot be read, or is none.
    """
    return read_mapping(path)


def _configuration(run: Run, subject: Subject) -> Iterator[Check]:
    """The engine's file against the traps we know, and against what the spec gives."""
    from multitask.runners import runner_of
    from multitask.scoring.chat import TEMPLATE_FILE
    from multitask.training.train import require_plugin

    runner, setup = runner_of(run), subject.setup
    name = runner.file
    try:
        config = _read(run.engine_file)
        require_plugin(run)
    except MultitaskError as error:
        yield refused(GROUP, name, error)
        return
    if setup is None:
        return
    findings = runner.check(setup, config)
    for finding in findings:
        make = problem if not finding.passed else warning
        yield make(GROUP, f"{name}: {finding.place}", finding.answer, finding.remedy)
    planned = json.loads(json.dumps(runner.config(setup), default=str))
    now = json.loads(json.dumps(config, default=str))
    for values in (planned, now):  # a model in the run: one of the two has its whole path
        if (run.root / str(values.get("base_model"))).is_dir():
            values["base_model"] = str((run.root / values["base_model"]).resolve())
    # The build reads these off the tokenizer, where it has it.
    of_tokenizer = {"eot_tokens"} - set(setup.spec.engine_keys)
    if now.get("chat_template_jinja") == TEMPLATE_FILE:
        of_tokenizer |= {"chat_template", "chat_template_jinja"}
    keys = sorted(
        key for key in {*planned, *now} - of_tokenizer if planned.get(key) != now.get(key)
    )
    if keys:
        shown = ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
        text = f"spec.yaml gives other values now for {shown}: one of the two was edited"
        fix = "build the run again in another directory, unless the edit is meant"
        yield warning(GROUP, name, text, fix)
    elif not findings:
        yield ok(GROUP, name, f"{len(config)} keys, as spec.yaml gives them")


def _accelerate(run: Run, subject: Subject) -> Iterator[Check]:
    name, cluster = "accelerate.yaml", subject.cluster
    try:
        config = _read(run.accelerate)
    except InputError as error:
        yield refused(GROUP, name, error)
        return
    if cluster is None:
        return
    processes, machines = config.get("num_processes"), config.get("num_machines")
    found = f"{processes} process(es) on {machines} machine(s)"
    if (processes, machines) == (cluster.world_size, cluster.nodes):
        yield ok(GROUP, name, found)
    else:
        text = f"{found}, and {cluster.name} has {cluster.world_size} on {cluster.nodes}"
        yield problem(GROUP, name, text, "build the run again in another directory")


def _since_checkpoint(run: Run) -> Iterator[Check]:
    """What changed since the newest complete checkpoint, as `train --resume` judges it."""
    from multitask.checkpoints.inventory import newest_complete
    from multitask.checkpoints.marker import Inputs

    newest = newest_complete(run.model)
    if newest is None or newest.marker is None:
        return
    then = newest.marker.inputs
    try:
        changes = then.changes_to(Inputs.of(run, then.world_size))
    except InputError as error:
        yield refused(GROUP, newest.path.name, error)
        return
    if changes:
        text = f"the run changed since it was saved: {'; '.join(changes)}"
        fix = "undo the change, or resume with --accept-changes"
        yield warning(GROUP, newest.path.name, text, fix)
    else:
        yield ok(GROUP, newest.path.name, "complete; nothing changed since")
