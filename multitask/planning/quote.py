"""Put a training setup to the estimator."""

from __future__ import annotations

from multitask.cluster import Cluster, Method, Topology, adalora_start_rank
from multitask.data.tokens import Workload
from multitask.estimate import Machines, Plan, Spread, Training, training_of
from multitask.estimate import Workload as Cut
from multitask.models import ModelInfo, ModelShape
from multitask.spec import Spec

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
        save_steps=spec.axolotl.get("save_steps", spec.checkpoint.save_steps),
        max_minutes=spec.checkpoint.max_minutes,
    )


def _training(
    shape: ModelShape, spec: Spec, cluster: Cluster, method: Method, model: ModelInfo
) -> Training:
    keys = dict(method.axolotl)
    keys |= {key: spec.axolotl[key] for key in ("bf16", "optimizer") if key in spec.axolotl}
    if method.is_adapter and model.lora_target_modules is not None:
        keys["lora_target_modules"] = model.lora_target_modules
    if keys.get("adapter") == "adalora":
        keys["adalora_init_r"] = adalora_start_rank(keys["lora_r"])
    if cluster.on_cpu:
        keys |= {"bf16": False, "optimizer": "adamw_torch"}
    return training_of(shape, keys)


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
