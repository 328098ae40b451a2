"""Decide how a run is trained: sharding, batch, packing, cadence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from multitask.cluster import (
    Batch,
    Cluster,
    Method,
    Topology,
    choose_topology,
    derive_batch,
    load_cluster,
    load_method,
)
from multitask.data.prepare import uses_alpaca
from multitask.data.tokens import Workload
from multitask.errors import InputError
from multitask.estimate import Estimate, Row, compare, estimate
from multitask.models import ModelInfo
from multitask.planning.quote import NOMINAL, plan_of
from multitask.planning.sequence import SequenceLength, choose_sequence_len
from multitask.planning.setup import SavePlan, Setup
from multitask.resources import config_names
from multitask.spec import Spec

_MOST_MICRO = 8
_FEW_STEPS = 200

# Estimates err by some 15 %, and an out-of-memory error costs more than recomputing.
_ROOM = 0.75


@dataclass(frozen=True)
class _Draft:
    """What is decided before memory is looked at."""

    spec: Spec
    cluster: Cluster
    method: Method
    model: ModelInfo
    workload: Workload
    packing: bool
    sequence: SequenceLength

    def quote(
        self,
        topology: Topology,
        micro: int = 1,
        accumulation: int = 1,
        *,
        recompute: bool | None = None,
    ) -> Estimate | None:
        """What the run needs with a topology; None where the model's sizes are not known."""
        if recompute is None:
            recompute = self.recompute
        if self.model.shape is None:
            return None
        plan = plan_of(
            self.spec,
            self.cluster,
            self.method,
            self.model,
            self.model.shape,
            topology,
            self.workload,
            packing=self.packing,
            sequence_len=self.sequence.tokens,
            recompute=recompute,
            micro=micro,
            accumulation=accumulation,
        )
        return estimate(plan)

    @property
    def recompute(self) -> bool:
        """Whether layers are computed again, unless memory turns out to be plenty."""
        if self.spec.activation_checkpointing is None:
            return not self.cluster.on_cpu
        return self.spec.activation_checkpointing


def decide(
    spec: Spec, model: ModelInfo, workload: Workload | None = None, *, refuse: bool = True
) -> Setup:
    """Turn a spec into a training setup.

    Args:
        spec: The user's choices.
        model: What is known of the model.
        workload: Rows and tokens; None before the data is read, when keys and memory are checked.
        refuse: Refuse a run that does not fit in memory.

    Raises:
        InputError: A choice is unknown, choices exclude each other, or the run does not fit.
    """
    cluster, method = load_cluster(spec.cluster), load_method(spec.method)
    _require_trust(spec, model)
    packing = not cluster.on_cpu and model.attention_on(flash=True) in model.packing
    work = workload or NOMINAL
    sequence = choose_sequence_len(
        spec,
        cluster,
        work,
        packing=packing,
        max_positions=None if model.shape is None else model.shape.max_positions,
    )
    draft = _Draft(spec, cluster, method, model, work, packing, sequence)
    topology = _topology(draft)
    batch = _batch(draft, topology)
    recompute = _recompute(draft, topology, batch)
    quote = draft.quote(topology, batch.micro, batch.accumulation, recompute=recompute)
    if refuse and quote is not None and quote.fits is False:
        raise _does_not_fit(draft, topology, quote)
    return Setup(
        spec=spec,
        cluster=cluster,
        method=method,
        model=model,
        topology=topology,
        batch=batch,
        alpaca=uses_alpaca(spec, model),
        packing=packing,
        sequence=sequence,
        recompute=recompute,
        save=_save(draft, quote),
        workload=workload,
        estimate=quote,
        unsharded=_unsharded(draft, topology, batch, recompute),
        warnings=_warnings(draft, quote),
    )


def _require_trust(spec: Spec, model: ModelInfo) -> None:
    if model.trust_remote_code and not spec.trust_remote_code:
        raise InputError(
            f"{spec.model} runs code from its own repository",
            where="key 'trust_remote_code'",
            fix="read that code, then set `trust_remote_code: true`",
        )


def _topology(draft: _Draft) -> Topology:
    def choose(fits_node: bool | None) -> Topology:
        return choose_topology(
            draft.spec.sharding,
            draft.cluster,
            cpu_offload=draft.spec.cpu_offload,
            possible=draft.method.shardings,
            fits_node=fits_node,
        )

    chosen = choose(True)
    if draft.spec.sharding != "auto" or chosen.sharding != "hsdp":
        return chosen
    quote = draft.quote(chosen)
    return choose(None if quote is None else quote.fits)


def _batch(draft: _Draft, topology: Topology) -> Batch:
    """The largest micro batch that fits, of those that divide the global one."""
    rows = draft.workload.rows_per_sequence(draft.sequence.tokens) if draft.packing else 1.0
    most: int | None = None
    if draft.model.shape is not None and not draft.cluster.on_cpu:
        most = 1
        for micro in range(2, _MOST_MICRO + 1):
            quote = draft.quote(topology, micro)
            if quote is None or quote.fits is False:
                break
            most = micro
    return derive_batch(
        draft.spec.global_batch_size, draft.cluster, rows_per_sequence=rows, most=most
    )


def _recompute(draft: _Draft, topology: Topology, batch: Batch) -> bool:
    """Whether layers are computed again: unless all activations fit with room to spare."""
    memory = draft.cluster.memory_gb
    if draft.spec.activation_checkpointing is not None or memory is None:
        return draft.recompute
    quote = draft.quote(topology, batch.micro, batch.accumulation, recompute=False)
    return quote is None or quote.memory.total > _ROOM * memory


def _unsharded(draft: _Draft, topology: Topology, batch: Batch, recompute: bool) -> Estimate | None:
    """What the run would need under DDP, where FSDP shards what fits every GPU anyway."""
    if not topology.sharding.is_fsdp or topology.cpu_offload:
        return None
    try:
        ddp = choose_topology("ddp", draft.cluster, possible=draft.method.shardings)
    except InputError:
        return None
    quote = draft.quote(ddp, batch.micro, batch.accumulation, recompute=recompute)
    return quote if quote is not None and quote.fits else None


def _save(draft: _Draft, quote: Estimate | None) -> SavePlan:
    """When to save: as the spec says, else by step time, stall and failures."""
    wanted = draft.spec.checkpoint
    if wanted.save_steps is not None:
        return SavePlan(wanted.save_steps, "as the spec says")
    if quote is None or draft.cluster.on_cpu:
        return SavePlan(0.1, "ten times in the run, since the step time is not known")
    cadence = quote.cadence
    steps = cadence.save_steps
    # A short run is saved once on its way as well.
    steps = min(steps, max(1, quote.steps // 2))
    seconds = steps * quote.step.total
    often = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
    return SavePlan(
        steps,
        f"every {steps} steps ({often}) at {quote.step.total:.2f} s a step (Young and Daly, one "
        f"failure in {wanted.mtbf_hours:g} h, at most {wanted.max_minutes:g} min apart); "
        f"expected loss {cadence.expected_loss_percent:.1f} % of the time",
    )


def _warnings(draft: _Draft, quote: Estimate | None) -> tuple[str, ...]:
    warnings = list(draft.model.notes)
    if draft.model.gated:
        warnings.append(
            f"the model is gated: accept its conditions at {draft.model.gated} and log in "
            "(`hf auth login`) on every machine that trains"
        )
    if draft.spec.sequence_len is None and draft.workload.longest > draft.sequence.tokens:
        warnings.append(
            f"rows of more than {draft.sequence.tokens} tokens, for which the model was not made, "
            f"are left out of training; the longest has {draft.workload.longest} tokens"
        )
    if quote is not None and quote.steps < _FEW_STEPS and not draft.cluster.on_cpu:
        epochs = math.ceil(draft.spec.epochs * _FEW_STEPS / quote.steps)
        warnings.append(
            f"only {quote.steps} optimizer steps: `epochs: {epochs}` would make the "
            f"{_FEW_STEPS} that a fine-tune should have"
        )
    return tuple(warnings)


def _does_not_fit(draft: _Draft, topology: Topology, quote: Estimate) -> InputError:
    rows = [row for row in alternatives(draft.spec, draft.model, draft.workload) if row.fits]
    same = [row for row in rows if row.method == draft.method.name]
    if same:
        fix = f"the cheapest that fits: {_named(same[0])}"
        if rows[0].method != same[0].method:
            fix += f"; of all methods: {_named(rows[0])}"
    elif rows:
        fix = f"no shipped cluster holds it with this method; the cheapest: {_named(rows[0])}"
    else:
        fix = "no shipped cluster holds it; use a smaller model or `sequence_len`"
    return InputError(
        f"{draft.spec.model} with method '{draft.method.name}' does not fit "
        f"{draft.cluster.description} ({topology.sharding}): {quote.why_not}",
        where="key 'cluster'",
        fix=f"{fix}; `multitask estimate` compares all",
    )


def _named(row: Row) -> str:
    found = row.estimate
    cost = "" if found is None or found.usd is None else f" (about ${found.usd:,.2f})"
    return f"`cluster: {row.cluster}`, `method: {row.method}`{cost}"


def alternatives(spec: Spec, model: ModelInfo, workload: Workload) -> list[Row]:
    """Estimates of a spec's run with every shipped cluster that has GPUs and every method.

    Returns:
        Those that fit first, the cheapest on top.
    """
    return compare(
        setup.estimate.plan
        for setup in _setups(spec, model, workload)
        if setup.estimate is not None
    )


def _setups(spec: Spec, model: ModelInfo, workload: Workload) -> Iterator[Setup]:
    for cluster in config_names("clusters"):
        if load_cluster(cluster).on_cpu:
            continue
        for method in config_names("methods"):
            other = spec.model_copy(
                update={"cluster": cluster, "method": method, "sharding": "auto"}
                | {"global_batch_size": None, "cpu_offload": False}
            )
            yield replace(decide(other, model, workload, refuse=False), spec=other)
