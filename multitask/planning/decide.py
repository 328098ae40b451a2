"""Decide how a run is trained: sequence length, sharding, batch, packing, cadence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from multitask.cluster import (
    DEFAULT_ROWS,
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
from multitask.estimate import (
    Estimate,
    Machines,
    Plan,
    Row,
    Spread,
    Training,
    compare,
    estimate,
    training_of,
)
from multitask.estimate import Workload as Cut
from multitask.estimate.assumptions import PACKING_FILL
from multitask.models import ALL_LINEAR, ModelInfo, ModelShape
from multitask.planning.setup import SavePlan, SequenceLength, Setup
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


# What memory is judged by before the data is read; packed sequences have their full length anyway.
NOMINAL = Workload(
    rows=10_000, validation_rows=1_000, tokens_per_row=100.0, longest=512, counted=False
)


def plan_of(
    spec: Spec,
    cluster: Cluster,
    method: Method,
    model: ModelInfo,
    shape: ModelShape,
    topology: Topology,
    workload: Workload,
    *,
    packing: bool,
    sequence_len: int,
    recompute: bool,
    micro: int = 1,
    accumulation: int = 1,
) -> Plan:
    """Describe a setup to the estimator.

    Args:
        spec: The user's choices.
        cluster: Where it trains.
        method: Which weights learn.
        model: What is known of the model.
        shape: The model's sizes.
        topology: How its state is sharded.
        workload: Rows and tokens.
        packing: Whether several rows share a sequence.
        sequence_len: How long sequences are.
        recompute: Whether layers are computed again in the backward pass.
        micro: Sequences per GPU and forward pass.
        accumulation: Forward passes per optimizer step.

    Raises:
        InputError: The method's layers are not the model's.
    """
    cut = Cut(
        rows=workload.rows,
        mean_tokens=workload.tokens_per_row,
        epochs=spec.epochs,
        sequence_len=sequence_len,
        micro_batch=micro,
        accumulation=accumulation,
        packing=packing,
        checkpointing=recompute,
        flash=model.attention_on(flash=not cluster.on_cpu) != "eager",
        fused_loss="liger_fused_linear_cross_entropy" in model.liger and not cluster.on_cpu,
    )
    return Plan(
        shape=shape,
        training=_training(shape, spec, cluster, method, model),
        spread=Spread(
            str(topology.sharding),
            topology.shard,
            topology.replicate,
            topology.cpu_offload,
            sync_each_batch=topology.sharding.is_fsdp,
        ),
        machines=machines_of(cluster),
        workload=cut,
        method=method.name,
        keep=spec.checkpoint.keep,
        mtbf_hours=spec.checkpoint.mtbf_hours,
        save_steps=spec.engine_keys.get("save_steps", spec.checkpoint.save_steps),
        max_minutes=spec.checkpoint.max_minutes,
    )


def _training(
    shape: ModelShape, spec: Spec, cluster: Cluster, method: Method, model: ModelInfo
) -> Training:
    targets = model.lora_target_modules or method.targets
    own = spec.engine_keys
    optimizer = "adamw_torch" if cluster.on_cpu else own.get("optimizer", "adamw_torch_fused")
    whole = method.bits == 16 and (cluster.on_cpu or own.get("bf16") is False)
    return training_of(
        shape,
        method.peft,
        rank=method.rank or 0,
        # A regular expression leaves a vision tower out, which has no linear layers here.
        targets=ALL_LINEAR if isinstance(targets, str) else targets,
        dora=bool(method.options.get("use_dora")),
        base_bits=32 if whole else method.bits,
        optimizer=str(optimizer),
    )


def machines_of(cluster: Cluster) -> Machines:
    """A cluster in the estimator's words."""
    return Machines(
        gpus_per_node=cluster.gpus_per_node,
        nodes=cluster.nodes,
        memory_gb=cluster.memory_gb,
        bf16_tflops=cluster.bf16_tflops,
        intra_node_gb_s=cluster.intra_node_gb_s,
        inter_node_gb_s=cluster.inter_node_gb_s,
        host_memory_gb=cluster.host_memory_gb,
        usd_per_hour=cluster.usd_per_hour,
        name=cluster.name,
    )


# Lengths that matrix products on tensor cores like.
_MULTIPLE = 64
# A longer sequence makes no GPU faster; more rows come from a larger micro batch.
_LONG_ENOUGH = 2048


def choose_sequence_len(
    spec: Spec,
    cluster: Cluster,
    workload: Workload,
    *,
    packing: bool,
    max_positions: int | None,
) -> SequenceLength:
    """Choose the length of sequences.

    Packed, an optimizer step has as many tokens as its sequences are long together, whatever they
    hold: rows a step follow from the length. The longest row must fit, though, or it is dropped.

    Args:
        spec: The user's choice, and how many sequences a step has.
        cluster: How many sequences a step has at least: one a GPU.
        workload: How long rows are.
        packing: Whether several rows share a sequence.
        max_positions: Longest sequence that the model was made for; None without a limit.
    """
    if spec.sequence_len is not None:
        return SequenceLength(spec.sequence_len, "as the spec says")
    longest = _rounded_up(workload.longest)
    row = f"the longest row has {'' if workload.counted else 'perhaps '}{workload.longest} tokens"
    tokens, reason = longest, row
    if packing:
        step = DEFAULT_ROWS * workload.tokens_per_row / PACKING_FILL
        sequences = spec.global_batch_size
        if sequences is None:
            world = cluster.world_size
            sequences = world * math.ceil(step / world / _LONG_ENOUGH)
        by_rows = _rounded_up(step / sequences)
        if by_rows >= longest:
            tokens = by_rows
            reason = f"for about {DEFAULT_ROWS} rows an optimizer step; {row}"
    if max_positions is not None and tokens > max_positions:
        return SequenceLength(max_positions, f"the model's longest; {row}")
    return SequenceLength(tokens, reason)


def _rounded_up(tokens: float) -> int:
    return _MULTIPLE * math.ceil(tokens / _MULTIPLE)
