"""Decide how a run is trained: sharding, batch, packing, cadence."""

from __future__ import annotations

from multitask.cluster import choose_topology, derive_batch, load_cluster, load_method
from multitask.data.prepare import uses_alpaca
from multitask.data.workload import Workload
from multitask.errors import InputError
from multitask.models import ModelInfo
from multitask.runners.setup import SavePlan, Setup
from multitask.spec import Spec

_FEW_STEPS = 100


def decide(spec: Spec, model: ModelInfo, workload: Workload | None = None) -> Setup:
    """Turn a spec into a training setup.

    Args:
        spec: The user's choices.
        model: What is known of the model.
        workload: Rows and tokens; None before the data is read, when only the keys are checked.

    Raises:
        InputError: A choice is unknown, choices exclude each other, or the run does not fit.
    """
    cluster, method = load_cluster(spec.cluster), load_method(spec.method)
    if model.trust_remote_code and not spec.trust_remote_code:
        raise InputError(
            f"{spec.model} runs code from its own repository",
            where="key 'trust_remote_code'",
            fix="read that code, then set `trust_remote_code: true`",
        )
    topology = choose_topology(
        spec.sharding,
        cluster,
        cpu_offload=spec.cpu_offload,
        possible=method.shardings,
        fits_node=None,
    )
    packing = not cluster.on_cpu and model.attention_on(flash=True) in model.packing
    rows_per_sequence = 1.0
    if packing and workload is not None:
        rows_per_sequence = workload.rows_per_sequence(spec.sequence_len)
    batch = derive_batch(spec.global_batch_size, cluster, rows_per_sequence=rows_per_sequence)
    return Setup(
        spec=spec,
        cluster=cluster,
        method=method,
        model=model,
        topology=topology,
        batch=batch,
        alpaca=uses_alpaca(spec, model),
        packing=packing,
        save=SavePlan(spec.checkpoint.save_steps or 0.1, "as the spec says"),
        notes=model.notes,
    )
