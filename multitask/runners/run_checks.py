"""The rules of :mod:`multitask.runners.checks` about data, packing, methods and resuming."""

from __future__ import annotations

from collections.abc import Iterator

from multitask.runners.finding import Finding
from multitask.runners.plan import LORA_KERNELS, Plan

PLUGIN = "multitask.plugin.MultitaskPlugin"
TRAIN_DATA = "data/train.jsonl"
VALIDATION_DATA = "data/validation.jsonl"
OUTPUT_DIR = "model"

# The causal models of transformers without `position_ids`, by model_type: a packed row's limits
# cannot be told to them. ALiBi (bloom, mpt) and state-space models count from the row's start.
NO_POSITIONS = frozenset({"bloom", "mpt", "mamba", "mamba2", "falcon_mamba", "rwkv"})
# `_supports_flash_attn` is False there; transformers refuses to load them with it.
NO_FLASH_ATTENTION = NO_POSITIONS | {"codegen", "xglm"}
# Axolotl's built-in adapters (schemas/peft.py, validate_adapter); a plugin may bring others.
BUILT_IN_ADAPTERS = ("lora", "qlora", "llama-adapter")


def _run_contract(plan: Plan) -> Iterator[Finding]:
    """What multitask's own commands rely on in a run."""
    # Read in source: PluginManager.register swallows what goes wrong; training goes on without.
    if not plan.plugin("MultitaskPlugin"):
        yield Finding(
            "multitask's plugin is not in 'plugins': paths, progress and per-task scores need it",
            "plugins",
            f"add {PLUGIN} to the list",
        )
    if plan.get("output_dir") != OUTPUT_DIR:
        yield Finding(
            "a run's checkpoints and model lie in its own folder, where every command looks",
            "output_dir",
            f"remove it (it is '{OUTPUT_DIR}'), and choose the run's place with --out",
        )
    for key, ours in (("datasets", TRAIN_DATA), ("test_datasets", VALIDATION_DATA)):
        paths = [d.get("path") for d in plan.datasets(key)]
        if paths != [ours]:
            yield Finding(
                f"this is not the prepared mixture ({ours}); its plan, leakage check and manifest "
                "do not describe what is trained on",
                key,
                "remove it, and define the data as tasks",
                "warning",
            )
    # The validation split is the tail of the merged data, so of the last task (data/sft.py).
    if plan.get("val_set_size"):
        yield Finding(
            "Axolotl's validation split is not per task",
            "val_set_size",
            "remove it; the run has a validation set with every task in it",
        )


def _resuming(plan: Plan) -> Iterator[Finding]:
    """Crashes: what is saved, and what a restart takes."""
    # utils/train.py, determine_last_checkpoint: the highest number, complete or not. Seen: after
    # a crash in the middle of a save every restart dies.
    if plan.get("auto_resume_from_checkpoints"):
        yield Finding(
            "Axolotl resumes from the highest-numbered checkpoint without a look whether it is "
            "complete",
            "auto_resume_from_checkpoints",
            "remove it; `multitask train --resume` chooses the checkpoint",
        )
    if plan.get("resume_from_checkpoint"):
        yield Finding(
            "every restart would begin at this one checkpoint again",
            "resume_from_checkpoint",
            "remove it; `multitask train --resume` chooses the checkpoint",
            "warning",
        )
    # transformers rotates by time of change, so the one that stays may be the incomplete one.
    limit = plan.get("save_total_limit")
    if isinstance(limit, int) and limit < 2:
        yield Finding(
            "a crash during a save leaves no complete checkpoint",
            "save_total_limit",
            "keep 2 or more (the spec's checkpoint.keep)",
        )
    if str(plan.get("save_strategy")) in ("no", "False"):
        yield Finding(
            "nothing is saved before the end, so a crash costs the whole training",
            "save_strategy",
            "remove it",
            "warning",
        )
    # transformers/trainer.py: without optimizer.pt, Adam restarts from nothing, silently.
    if plan.get("save_only_model"):
        sharded = plan.sharded
        yield Finding(
            "it cannot be combined with SHARDED_STATE_DICT"
            if sharded
            else "checkpoints without the optimizer cannot be resumed from",
            "save_only_model",
            "remove it",
            "error" if sharded else "warning",
        )


def _data(plan: Plan) -> Iterator[Finding]:
    """Mixing and streaming."""
    for key in ("datasets", "test_datasets"):
        for index, dataset in enumerate(plan.datasets(key)):
            # utils/data/shared.py: merging is concatenate and shuffle.
            if "weight" in dataset or "weights" in dataset:
                yield Finding(
                    "Axolotl has no dataset weights and drops the key",
                    f"{key}[{index}].{'weight' if 'weight' in dataset else 'weights'}",
                    "remove it; weight tasks with mixture.weights in the spec",
                )
    # data/sft.py, _prepare_streaming_dataset: datasets[0] only, as for pretraining_dataset.
    packed = bool(plan.get("sample_packing")) and bool(plan.get("streaming"))
    if packed and len(plan.datasets("datasets")) > 1:
        yield Finding(
            "streaming with packing reads the first dataset only",
            "streaming",
            "remove streaming, or join the datasets into one",
        )
    if len(plan.datasets("pretraining_dataset")) > 1:
        yield Finding(
            "Axolotl reads the first one only", "pretraining_dataset", "join them into one"
        )


def _packing(plan: Plan) -> Iterator[Finding]:
    """Several rows in one sequence: they must not see each other."""
    if not plan.get("sample_packing"):
        return
    # schemas/validation.py, check_eval_packing, and the callback in core/builders/causal.py
    if plan.get("eval_table_size") and plan.get("eval_sample_packing") is not False:
        yield Finding(
            "a table of predictions cannot be made of packed evaluation rows",
            "eval_table_size",
            "remove it, or set eval_sample_packing: false",
        )
    if plan.model_type in NO_POSITIONS:
        yield Finding(
            f"'{plan.model_type}' models take no position ids, so packed rows run into each other",
            "sample_packing",
            "set sample_packing: false",
        )
    name = plan.get("attn_implementation")
    legacy = [key for key in plan.config if key.endswith("_attention") and plan.get(key) is True]
    # schemas/validation.py, check_sample_packing_without_attention: a warning there
    if name in (None, "fp8") and not legacy:
        yield Finding(
            "packed rows see each other without an attention that separates them",
            "attn_implementation",
            "set attn_implementation: flash_attention_2, or sample_packing: false",
        )
    # schemas/config.py, check_sample_packing_w_sdpa_bf16: the loss may be 0.0; a warning there
    half = plan.get("bf16") or plan.get("bfloat16")
    sdpa = name == "sdpa" or plan.get("sdp_attention")
    if sdpa and half and not plan.on_cpu and not plan.hopper:
        yield Finding(
            "sdpa with packing and bf16 may train on a loss of 0.0 before sm_90 (H100)",
            "attn_implementation",
            "set attn_implementation: flash_attention_2, or sample_packing: false",
        )


def _attention(plan: Plan) -> Iterator[Finding]:
    """Attention kernels that the hardware or the model does not have."""
    if not plan.flash:
        return
    where = "attn_implementation" if plan.get("attn_implementation") else "flash_attention"
    if plan.on_cpu:
        yield Finding("flash attention runs on CUDA alone", where, "use sdpa")
    elif plan.get("attn_implementation") == "flash_attention_3" and not plan.hopper:
        # Its kernels are written for Hopper (Dao-AILab/flash-attention, hopper/).
        yield Finding("flash attention 3 needs sm_90 (H100)", where, "use flash_attention_2")
    if plan.model_type in NO_FLASH_ATTENTION:
        yield Finding(
            f"transformers has no flash attention for a '{plan.model_type}' model",
            where,
            "use eager",
        )


def _method(plan: Plan) -> Iterator[Finding]:
    """Adapters and quantised weights."""
    adapter = plan.get("adapter")
    plugins = plan.get("plugins")
    foreign = [
        p
        for p in (plugins if isinstance(plugins, list) else [])
        if p != PLUGIN and not str(p).startswith("axolotl.integrations.")
    ]
    mora = plan.plugin("MoraPlugin")
    ours = adapter == "adalora" and isinstance(plugins, list) and PLUGIN in plugins
    if adapter and adapter not in BUILT_IN_ADAPTERS and not (foreign or mora or ours):
        yield Finding(
            f"no plugin brings the adapter '{adapter}'",
            "adapter",
            f"use {', '.join(BUILT_IN_ADAPTERS)}, or name the plugin in 'plugins'",
        )
    # schemas/peft.py, validate_adapter and validate_qlora
    for key in ("load_in_8bit", "load_in_4bit"):
        if plan.get(key) and not adapter:
            yield Finding("quantised weights cannot be trained", key, "set adapter: qlora")
    if adapter == "qlora" and not plan.get("load_in_4bit"):
        yield Finding("QLoRA is LoRA on 4-bit weights", "adapter", "set load_in_4bit: true")
    if adapter == "qlora" and plan.get("load_in_8bit"):
        yield Finding("QLoRA cannot have 8-bit weights", "load_in_8bit", "set adapter: lora")


def _cpu(plan: Plan) -> Iterator[Finding]:
    """What exists on CUDA alone."""
    if not plan.on_cpu:
        return
    # schemas/config.py, check_auto_enable_lora_kernels: on by themselves unless one is given
    given = [plan.get(key) for key in LORA_KERNELS]
    if plan.get("adapter") in ("lora", "qlora") and (any(given) or given == [None] * len(given)):
        yield Finding(
            "Axolotl's fused LoRA kernels run on CUDA alone, and turn themselves on",
            LORA_KERNELS[0],
            f"set {', '.join(LORA_KERNELS)} to false",
        )
    for plugin in ("LigerPlugin", "CutCrossEntropyPlugin"):
        if plan.plugin(plugin):
            yield Finding(f"the kernels of {plugin} run on CUDA alone", "plugins", "remove it")
    if "8bit" in str(plan.get("optimizer")) or "4bit" in str(plan.get("optimizer")):
        yield Finding("its kernels run on CUDA alone", "optimizer", "use adamw_torch")
    for key in ("fsdp_config", "fsdp", "deepspeed"):
        # Seen: both ask CUDA for a device (facts: FSDP2 and DeepSpeed need a shim for it).
        if plan.get(key):
            yield Finding("there is no GPU to shard over", key, "remove it, or choose a cluster")


RULES = (_run_contract, _resuming, _data, _packing, _attention, _method, _cpu)
