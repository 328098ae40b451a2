"""Checks of a run before any process is started: what can be known from its files."""

from __future__ import annotations

import importlib
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multitask.checks import Check, Checklist
from multitask.cluster import Cluster
from multitask.data.readers import iterate_rows
from multitask.errors import InputError
from multitask.models import model_info
from multitask.run import Run
from multitask.runners.axolotl.checks import check_config
from multitask.runners.axolotl.plan import Plan

_ROWS_PER_TASK = 200
# Folders that machines do not share as a rule.
_LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/scratch", "/local", "/run")  # noqa: S108


def check_files(
    checks: Checklist, run: Run, config: Mapping[str, Any], cluster: Cluster, tokenizer: Any
) -> None:
    """Check the run's files.

    Args:
        checks: Where the outcomes go.
        run: The run as it was built.
        config: The content of its ``axolotl.yaml``.
        cluster: What it was built for.
        tokenizer: The model's own, or the rehearsal's.
    """
    with checks.check("configuration") as check:
        _configuration(check, run, config, cluster)
    with checks.check("plugins can be imported") as check:
        _plugins(check, config)
    with checks.check("launch scripts parse") as check:
        _scripts(check, run)
    with checks.check("output directory is shared by all nodes") as check:
        _output(check, run, config, cluster)
    with checks.check("batch arithmetic") as check:
        _batch(check, run, config, cluster)
    with checks.check("chat template has the assistant's turn") as check:
        _template(check, run, tokenizer)
    with checks.check("answers fit into sequence_len") as check:
        _answers(check, run, config, tokenizer)


def _configuration(check: Check, run: Run, config: Mapping[str, Any], cluster: Cluster) -> None:
    info = model_info(str(config.get("base_model", "")), run.root)
    findings = check_config(
        Plan(
            dict(config),
            on_cpu=cluster.on_cpu,
            world_size=cluster.world_size,
            compute_capability=cluster.compute_capability,
            model_type=info.model_type,
            model=info,
        )
    )
    errors = [str(finding) for finding in findings if not finding.passed]
    if errors:
        check.fail("\n".join(errors))
    else:
        check.answer = f"{len(config)} keys, {len(findings)} warnings"


def _plugins(check: Check, config: Mapping[str, Any]) -> None:
    names = [str(name) for name in config.get("plugins") or []]
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            check.fail(f"{name} cannot be imported ({error}); Axolotl would train without it")
            return
    if not any(name.startswith("multitask.") for name in names):
        check.fail("multitask's plugin is not among `plugins`; Axolotl would train without it")
        return
    check.answer = ", ".join(name.rsplit(".", 1)[-1] for name in names)


def _scripts(check: Check, run: Run) -> None:
    scripts = sorted(run.launch.glob("*.sh"))
    for script in scripts:
        done = subprocess.run(
            ["bash", "-n", str(script)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            check.fail(done.stderr.strip())
            return
    if scripts:
        check.answer = ", ".join(script.name for script in scripts)
    else:
        check.fail(f"there are none in {run.launch}")


def _output(check: Check, run: Run, config: Mapping[str, Any], cluster: Cluster) -> None:
    path = Path(str(config.get("output_dir", "")))
    if not path.is_absolute() or run.root.resolve() in path.parents:
        check.answer = f"{path}, inside the run directory"
    elif cluster.nodes > 1 and str(path).startswith(_LOCAL):
        check.fail(
            f"output_dir is {path}, which is another folder on each of {cluster.nodes} nodes; "
            "each would keep only its own shards. Use a path inside the run directory",
        )
    else:
        check.answer = f"{path}; see that all nodes have it"


def _batch(check: Check, run: Run, config: Mapping[str, Any], cluster: Cluster) -> None:
    micro = int(config.get("micro_batch_size") or 1)
    accumulation = int(config.get("gradient_accumulation_steps") or 1)
    size = micro * accumulation * cluster.world_size
    rows = sum(1 for _ in iterate_rows(run.split("train")))
    check.answer = f"{cluster.world_size} x {micro} x {accumulation} = {size} sequences per step"
    if config.get("sample_packing"):
        return
    if rows < size:
        check.fail(f"{check.answer}, but there are {rows} rows: not one step is whole")
    elif (rows % size) / rows > 0.05:
        check.fail(
            f"{check.answer} leave {rows % size} of {rows} rows out of every epoch "
            f"({(rows % size) / rows:.0%}); use a batch that divides the rows more evenly",
        )


def _template(check: Check, run: Run, tokenizer: Any) -> None:
    from multitask.scoring.encode import Encoder

    encoder = Encoder(tokenizer)
    seen: Counter[str] = Counter()
    for row in iterate_rows(run.split("train")):
        if seen[row["task"]] >= 5:
            continue
        seen[row["task"]] += 1
        prompt, answer = (message["content"] for message in row["messages"][-2:])
        encoded = encoder.encode(prompt, [answer])
        text = tokenizer.decode(encoded.answers[0])
        if answer.strip() not in text:
            check.fail(f"the answer {answer!r} of {row['id']} comes out as {text!r}")
            return
    check.answer = ", ".join(seen)


def _answers(check: Check, run: Run, config: Mapping[str, Any], tokenizer: Any) -> None:
    """Axolotl drops rows that are too long; a task may vanish that way."""
    limit = int(config.get("sequence_len") or 0)
    lengths: dict[str, list[int]] = {}
    for row in iterate_rows(run.split("train")):
        found = lengths.setdefault(row["task"], [])
        if len(found) < _ROWS_PER_TASK:
            text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
            found.append(len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    if not limit or not lengths:
        raise InputError("sequence_len or rows are missing")
    shares = {task: sum(n > limit for n in ns) / len(ns) for task, ns in lengths.items()}
    gone = [task for task, share in shares.items() if share == 1.0]
    if gone:
        check.fail(f"every row of {', '.join(gone)} is longer than {limit} tokens and is dropped")
        return
    longest = max(max(ns) for ns in lengths.values())
    some = ", ".join(f"{share:.0%} of {task} dropped" for task, share in shares.items() if share)
    check.answer = f"longest of {limit}: {longest}" + (f"; {some}" if some else "")
