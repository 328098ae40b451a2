"""A spec's own plan beside the others, and their tables for terminals and for plan.md."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask.data.prepare import prepare
from multitask.data.tokens import Workload, workload_of
from multitask.errors import InputError
from multitask.estimate import Estimate, Row, fsdp_groups, gathered_gb
from multitask.models import model_info
from multitask.planning.decide import alternatives, decide
from multitask.planning.setup import Setup
from multitask.run import Run
from multitask.spec import Spec


@dataclass(frozen=True)
class Comparison:
    """A spec's own plan, and the others.

    Attributes:
        setup: The plan of the spec.
        rows: Estimates with every shipped cluster and method; those that fit first, the cheapest
            on top.
    """

    setup: Setup
    rows: list[Row]


def compare_plans(
    spec: Spec, run: Run | None = None, *, report: Callable[[str], None] = lambda _: None
) -> Comparison:
    """Estimate a spec's run, and the same run on every shipped cluster with every method.

    Args:
        spec: The user's choices.
        run: A prepared run of it, whose rows and tokens count; else the data is read now.
        report: Told what is being done.

    Raises:
        InputError: The data cannot be read, or the model's sizes are not known.
    """
    model = model_info(spec.model, run.root if run else Path())
    if model.shape is None:
        raise InputError(
            f"the sizes of {spec.model} are not known, so nothing can be estimated",
            where="key 'model'",
            fix="download its config.json once (`hf download MODEL config.json`), or give a folder",
        )
    workload = workload_of(run) if run is not None else _quick_workload(spec, report)
    setup = decide(spec, model, workload, refuse=False)
    return Comparison(setup, alternatives(spec, model, workload))


def _quick_workload(spec: Spec, report: Callable[[str], None] = lambda _: None) -> Workload:
    """Read a spec's data to count rows and tokens; nothing of it is kept.

    Raises:
        InputError: The data cannot be read.
    """
    # Near-duplicates change the number of rows by a few in a hundred, and cost most of the time.
    quick = spec.model_copy(
        update={"leakage": spec.leakage.model_copy(update={"near_duplicates": False})}
    )
    with tempfile.TemporaryDirectory() as folder:
        return workload_of(prepare(quick, Path(folder) / "run", report=report))


HEADER = (
    "cluster",
    "method",
    "sharding",
    "GB per GPU",
    "s/step",
    "steps",
    "hours",
    "USD",
    "checkpoint GB",
    "disk GB",
)


def cells(row: Row) -> tuple[str, ...]:
    """One line of a comparison; a plan that does not fit says why in place of its time."""
    found = row.estimate
    if found is None:
        return (row.cluster, row.method, row.sharding, row.reason, "", "", "", "", "", "")
    start = (row.cluster, row.method, row.sharding, f"{found.memory.total:.1f}")
    if not row.fits:
        return (*start, f"does not fit: {row.reason}", "", "", "", "", "")
    return (
        *start,
        f"{found.step.total:.2f}",
        f"{found.steps:,}",
        f"{found.hours:.1f}",
        "-" if found.usd is None else f"{found.usd:,.2f}",
        f"{found.checkpoint_gb:.1f}",
        f"{found.disk_gb:.0f}",
    )


def memory_line(found: Estimate) -> str:
    """Where a GPU's memory goes, in one line."""
    memory = found.memory
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
        "buffers": memory.buffers,
        "overhead": memory.overhead,
    }
    line = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
    host = f"; {memory.host:.1f} GB of main memory per GPU" if memory.host else ""
    return f"{memory.total:.1f} GB per GPU: {line}{host}"


def plan_section(setup: Setup) -> str:
    """The part of plan.md about machines: sharding, batch, memory, time, cost, checkpoints."""
    cluster, batch, topology = setup.cluster, setup.batch, setup.topology
    lines = [
        "",
        "# Training plan",
        "",
        f"- cluster: {cluster.description}; method: {setup.method.description}",
        f"- sharding: {topology.sharding} ({topology.reason})"
        + (", offloaded to main memory" if topology.cpu_offload else ""),
        *_without_sharding(setup),
        f"- sequence_len: {setup.sequence.tokens} ({setup.sequence.reason})",
        f"- batch: {cluster.world_size} x {batch.micro} x {batch.accumulation} = "
        f"{batch.global_size} sequences per optimizer step" + _rows(setup),
        *_numbers(setup),
        f"- checkpoints: {setup.save.reason}",
    ]
    if setup.workload is not None and not setup.workload.counted:
        lines.append("- tokens are guessed from characters: the tokenizer is not on this machine")
    if setup.warnings:
        lines += ["", "Notes:", *(f"- {warning}" for warning in setup.warnings)]
    return "\n".join(lines) + "\n"


def _without_sharding(setup: Setup) -> Sequence[str]:
    """What `sharding: ddp` would gain: a model that fits every GPU need not be gathered."""
    found, ddp = setup.estimate, setup.unsharded
    if found is None or ddp is None or ddp.step.total >= found.step.total:
        return []
    plan = found.plan
    gathered = gathered_gb(plan.shape, plan.training, plan.spread, plan.workload)
    groups = fsdp_groups(plan.shape, plan.training, plan.spread)
    usd = "" if ddp.usd is None else f" and ${ddp.usd:,.2f}"
    line = (
        f"- `sharding: ddp` would fit too, with {ddp.memory.total:.1f} GB per GPU: a step of about "
        f"{ddp.step.total:.2f} s, {ddp.hours:.1f} h{usd}, against {found.step.total:.2f} s and "
        f"{found.hours:.1f} h; sharded, each step gathers {gathered:.0f} GB of weights on every "
        f"GPU, in {groups} groups"
    )
    return [line]


def _rows(setup: Setup) -> str:
    if not setup.packing or setup.workload is None:
        return ""
    each = setup.workload.rows_per_sequence(setup.sequence.tokens)
    return (
        f"; packed, a sequence holds about {each:.0f} rows, so that a step sees about "
        f"{each * setup.batch.global_size:,.0f}"
    )


def _numbers(setup: Setup) -> Sequence[str]:
    found = setup.estimate
    if found is None:
        return ["- memory, time and cost are not estimated: the model's sizes are not known"]
    if setup.cluster.on_cpu:
        return []
    price = setup.cluster.price
    cost = ""
    if found.usd is not None and price is not None:
        cost = (
            f", about ${found.usd:,.2f} at ${price.usd_per_gpu_hour:.2f} per GPU and hour "
            f"({price.date}, {price.source})"
        )
    return [
        f"- memory (estimated): {memory_line(found)}; a GPU has {setup.cluster.memory_gb:g} GB",
        (
            f"- time (estimated): {found.steps:,} steps of {found.step.total:.2f} s, "
            f"{found.hours:.1f} h with start, saves and repeated work{cost}"
        ),
        (
            f"- disk (estimated): {found.disk_gb:.0f} GB, of which {found.checkpoint_gb:.1f} GB "
            "for each checkpoint"
        ),
    ]
