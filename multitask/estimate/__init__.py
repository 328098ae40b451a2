"""Memory, disk, time and cost of a fine-tune, before anything is rented."""

from multitask.estimate.checkpoints import (
    Cadence,
    checkpoint_cadence,
    checkpoint_gb,
    disk_gb,
    save_seconds,
)
from multitask.estimate.estimate import Estimate, Plan, Row, compare, estimate
from multitask.estimate.inputs import (
    Machines,
    Spread,
    StateBytes,
    Training,
    Workload,
    full,
    held_bytes,
    lora,
    training_of,
)
from multitask.estimate.memory import Memory, activation_bytes, estimate_memory
from multitask.estimate.step import (
    StepTime,
    flops_per_token,
    fsdp_groups,
    gathered_gb,
    step_time,
)

__all__ = [
    "Cadence",
    "Estimate",
    "Machines",
    "Memory",
    "Plan",
    "Row",
    "Spread",
    "StateBytes",
    "StepTime",
    "Training",
    "Workload",
    "activation_bytes",
    "checkpoint_cadence",
    "checkpoint_gb",
    "compare",
    "disk_gb",
    "estimate",
    "estimate_memory",
    "flops_per_token",
    "fsdp_groups",
    "full",
    "gathered_gb",
    "held_bytes",
    "lora",
    "save_seconds",
    "step_time",
    "training_of",
]
