"""The part of Axolotl's configuration that follows from the machines: speed and sharding.

Each section says what it buys.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from multitask.cluster import Sharding
from multitask.estimate import save_seconds
from multitask.planning.setup import Setup
from multitask.runners.axolotl.method import method_keys
from multitask.runners.axolotl.plan import LORA_KERNELS

# Seconds that a collective may take besides a save.
_LEAST_PATIENCE = 900.0


class Section(NamedTuple):
    """Some keys of a configuration, and why they are there.

    Attributes:
        why: A sentence or two for the file's comment.
        keys: The keys.
    """

    why: str
    keys: dict[str, Any]


def cpu_sections(setup: Setup) -> list[Section]:
    """What training on a CPU needs."""
    keys: dict[str, Any] = {
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "optimizer": "adamw_torch",
        "attn_implementation": setup.attention,
        "group_by_length": True,
        "dataloader_pin_memory": False,
    }
    if setup.method.is_adapter:
        keys |= dict.fromkeys(LORA_KERNELS, False)
    why = (
        "CPU: float32, since bfloat16 is emulated; rows of like length together, since packing "
        "needs flash attention. Axolotl turns its fused LoRA kernels on by itself, and they run "
        "on CUDA alone."
    )
    return [Section(why, keys), *_compile(setup)]


def gpu_sections(setup: Setup) -> list[Section]:
    """What makes GPUs fast where it is safe, and how they share the model."""
    return [
        _precision(),
        _attention(setup),
        *_kernels(setup),
        *_compile(setup),
        _loading(),
        *_sharding(setup),
        *_patience(setup),
    ]


def _patience(setup: Setup) -> list[Section]:
    """How long processes wait for one another, where nothing else notices a hang before."""
    if setup.cluster.world_size == 1 or setup.estimate is None:
        return []
    # While the first process writes the final model, the others wait for it.
    seconds = _LEAST_PATIENCE + 2 * save_seconds(setup.estimate.checkpoint_gb)
    why = (
        "Collectives fail after so many seconds: enough for one process to write the model while "
        "the others wait. `multitask train` notices a hang itself, after ten steps."
    )
    return [Section(why, {"ddp_timeout": 60 * math.ceil(seconds / 60)})]


def _precision() -> Section:
    return Section(
        "bfloat16 halves memory and doubles speed against float32, without loss scaling; TF32 "
        "speeds up what is left in float32. The fused AdamW updates all weights in few kernels.",
        {
            "bf16": True,
            "tf32": True,
            "optimizer": "adamw_torch_fused",
        },
    )


def _attention(setup: Setup) -> Section:
    keys: dict[str, Any] = {"attn_implementation": setup.attention}
    if setup.packing:
        keys |= {
            "sample_packing": True,
            "eval_sample_packing": False,
            "pad_to_sequence_len": True,
        }
        why = (
            "Packing puts several rows into one sequence: short tasks waste over 80 % of a padded "
            "batch. Flash attention keeps packed rows apart. Evaluation is not packed, so that "
            "every row keeps its task. Sequences of one length keep memory even."
        )
    else:
        keys["group_by_length"] = True
        why = (
            "No packing: with this model's attention, packed rows would see each other. Rows of "
            "like length together save most of the padding."
        )
    return Section(why, keys)


def _kernels(setup: Setup) -> list[Section]:
    sections = []
    if setup.model.liger:
        why = (
            "Liger's fused kernels: less memory and some 10-20 % more speed. Its fused linear "
            "cross entropy never holds all logits while training, which at large vocabularies is "
            "the largest tensor, and still gives them in evaluation, which per-task accuracy needs "
            "(cut cross entropy does not)."
        )
        sections.append(Section(why, dict.fromkeys(setup.model.liger, True)))
    if setup.method.is_adapter and not _lora_kernels_fit(setup):
        why = "Axolotl turns its fused LoRA kernels on by itself; they do not fit here."
        sections.append(Section(why, dict.fromkeys(LORA_KERNELS, False)))
    return sections


def _lora_kernels_fit(setup: Setup) -> bool:
    keys = method_keys(setup.method) | setup.spec.engine_keys
    # They gather DoRA's magnitudes by `full_tensor` (axolotl/kernels/lora.py:110-113), past FSDP's
    # reduction: each shard would learn from its own rows alone, and replicas would drift apart.
    sharded_dora = keys.get("peft_use_dora") and setup.topology.sharding.is_fsdp
    return (
        setup.model.lora_kernels
        and setup.method.bits != 8
        and not setup.spec.trust_remote_code
        and setup.method.peft == "lora"
        and not sharded_dora
    )


def _compile(setup: Setup) -> list[Section]:
    if not setup.spec.torch_compile:
        return []
    why = "torch.compile fuses what is left; the first steps take minutes, so it pays on long runs."
    return [Section(why, {"torch_compile": True})]


def _loading() -> Section:
    why = "Batches are made ahead by processes of their own and copied from pinned memory."
    return Section(
        why,
        {
            "dataloader_pin_memory": True,
            "dataloader_num_workers": 4,
            "dataloader_prefetch_factor": 8,
        },
    )


def _sharding(setup: Setup) -> list[Section]:
    sharding = setup.topology.sharding
    if sharding.is_fsdp:
        return [_fsdp(setup), _recompute(setup), *_reduce_each_pass(setup)]
    if sharding.deepspeed_stage is None:
        return [_recompute(setup)]
    why = (
        f"DeepSpeed ZeRO-{sharding.deepspeed_stage} ({setup.topology.reason}); it needs the extra "
        "`deepspeed`."
    )
    return [_recompute(setup), Section(why, {"deepspeed": "deepspeed.json"})]


def _recompute(setup: Setup) -> Section:
    if not setup.recompute:
        why = "All activations fit in memory, so that no layer is computed twice."
        return Section(why, {"gradient_checkpointing": False})
    # Not FSDP's own `activation_checkpointing`: accelerate wraps every layer's children without the
    # state of the random numbers (accelerate/utils/fsdp_utils.py:615), and Axolotl the layers once
    # more (axolotl/monkeypatch/accelerate/fsdp2.py:485). Dropout then differs in the backward pass,
    # and the final adapter is saved under the wrappers' names, so that nothing loads it.
    return Section(
        "Layers are computed again in the backward pass instead of kept: a third more work, far "
        "less memory.",
        {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        },
    )


def _reduce_each_pass(setup: Setup) -> list[Section]:
    if setup.batch.accumulation == 1:
        return []
    why = (
        "Gradients are reduced after every pass: while it accumulates, accelerate otherwise keeps "
        "whole ones on every GPU, 16 GB for 8B parameters that learn."
    )
    kwargs = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
    return [Section(why, {"accelerator_config": kwargs})]


def _fsdp(setup: Setup) -> Section:
    topology = setup.topology
    fsdp: dict[str, Any] = {
        "offload_params": topology.cpu_offload,
        # Rank 0 reads the weights and scatters them; with 4-bit weights that deadlocks.
        "cpu_ram_efficient_loading": setup.method.bits == 16,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        # A full state dict restores LoRA wrongly on resume (accelerate#4206).
        "state_dict_type": "SHARDED_STATE_DICT",
    }
    if setup.model.layer_class:
        fsdp["transformer_layer_cls_to_wrap"] = setup.model.layer_class
    keys: dict[str, Any] = {"fsdp_version": 2, "fsdp_config": fsdp}
    kind = "full shard over all GPUs"
    if topology.sharding is Sharding.HSDP:
        kind = "sharded inside each node, replicated across nodes"
        keys |= {"dp_shard_size": topology.shard, "dp_replicate_size": topology.replicate}
    why = (
        f"FSDP2, {kind} ({topology.reason}). Checkpoints are sharded: a full state dict restores "
        "LoRA wrongly on resume (accelerate#4206). What learns is held in float32, and layers are "
        "gathered and computed in bfloat16."
    )
    return Section(why, keys)
