"""The rules of `checks` about the run, packing, methods, sharding and resuming."""

from __future__ import annotations

import math
from collections.abc import Iterator

from multitask.checks import Check
from multitask.runners.axolotl.plan import LORA_KERNELS, Plan

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


def _run_contract(plan: Plan) -> Iterator[Check]:
    """What multitask's own commands rely on in a run."""
    # Read in source: PluginManager.register swallows what goes wrong; training goes on without.
    if not plan.plugin("MultitaskPlugin"):
        yield Check(
            "multitask's plugin is not in 'plugins': paths, progress and per-task scores need it",
            "plugins",
            f"add {PLUGIN} to the list",
        )
    if plan.get("output_dir") != OUTPUT_DIR:
        yield Check(
            "a run's checkpoints and model lie in its own folder, where every command looks",
            "output_dir",
            f"remove it (it is '{OUTPUT_DIR}'), and choose the run's place with --out",
        )
    for key, ours in (("datasets", TRAIN_DATA), ("test_datasets", VALIDATION_DATA)):
        paths = [d.get("path") for d in plan.datasets(key)]
        if paths != [ours]:
            yield Check(
                f"this is not the prepared mixture ({ours}); its plan, leakage check and manifest "
                "do not describe what is trained on",
                key,
                "remove it, and define the data as tasks",
                "warning",
            )
    # The validation split is the tail of the merged data, so of the last task (data/sft.py).
    if plan.get("val_set_size"):
        yield Check(
            "Axolotl's validation split is not per task",
            "val_set_size",
            "remove it; the run has a validation set with every task in it",
        )


def _resuming(plan: Plan) -> Iterator[Check]:
    """Crashes: what is saved, and what a restart takes."""
    # utils/train.py, determine_last_checkpoint: the highest number, complete or not. Seen: after
    # a crash in the middle of a save every restart dies.
    if plan.get("auto_resume_from_checkpoints"):
        yield Check(
            "Axolotl resumes from the highest-numbered checkpoint without a look whether it is "
            "complete",
            "auto_resume_from_checkpoints",
            "remove it; `multitask train --resume` chooses the checkpoint",
        )
    if plan.get("resume_from_checkpoint"):
        yield Check(
            "every restart would begin at this one checkpoint again",
            "resume_from_checkpoint",
            "remove it; `multitask train --resume` chooses the checkpoint",
            "warning",
        )
    # transformers rotates by time of change, so the one that stays may be the incomplete one.
    limit = plan.get("save_total_limit")
    if isinstance(limit, int) and limit < 2:
        yield Check(
            "a crash during a save leaves no complete checkpoint",
            "save_total_limit",
            "keep 2 or more (the spec's checkpoint.keep)",
        )
    if str(plan.get("save_strategy")) in ("no", "False"):
        yield Check(
            "nothing is saved before the end, so a crash costs the whole training",
            "save_strategy",
            "remove it",
            "warning",
        )
    # transformers/trainer.py: without optimizer.pt, Adam restarts from nothing, silently.
    if plan.get("save_only_model"):
        sharded = plan.sharded
        yield Check(
            "it cannot be combined with SHARDED_STATE_DICT"
            if sharded
            else "checkpoints without the optimizer cannot be resumed from",
            "save_only_model",
            "remove it",
            "problem" if sharded else "warning",
        )


def _data(plan: Plan) -> Iterator[Check]:
    """Mixing and streaming."""
    for key in ("datasets", "test_datasets"):
        for index, dataset in enumerate(plan.datasets(key)):
            # utils/data/shared.py: merging is concatenate and shuffle.
            if "weight" in dataset or "weights" in dataset:
                yield Check(
                    "Axolotl has no dataset weights and drops the key",
                    f"{key}[{index}].{'weight' if 'weight' in dataset else 'weights'}",
                    "remove it; weight tasks with mixture.weights in the spec",
                )
    # data/sft.py, _prepare_streaming_dataset: datasets[0] only; of `datasets` its validator knows.
    if len(plan.datasets("pretraining_dataset")) > 1:
        yield Check("Axolotl reads the first one only", "pretraining_dataset", "join them into one")


def _packing(plan: Plan) -> Iterator[Check]:
    """Several rows in one sequence: they must not see each other."""
    if not plan.get("sample_packing"):
        return
    if plan.model_type in NO_POSITIONS:
        yield Check(
            f"'{plan.model_type}' models take no position ids, so packed rows run into each other",
            "sample_packing",
            "set sample_packing: false",
        )
    name = plan.get("attn_implementation")
    legacy = [key for key in plan.config if key.endswith("_attention") and plan.get(key) is True]
    # schemas/validation.py, check_sample_packing_without_attention: a warning there
    if name in (None, "fp8") and not legacy:
        yield Check(
            "packed rows see each other without an attention that separates them",
            "attn_implementation",
            "set attn_implementation: flash_attention_2, or sample_packing: false",
        )
    # schemas/config.py, check_sample_packing_w_sdpa_bf16: the loss may be 0.0; a warning there
    half = plan.get("bf16") or plan.get("bfloat16")
    sdpa = name == "sdpa" or plan.get("sdp_attention")
    if sdpa and half and not plan.on_cpu and not plan.hopper:
        yield Check(
            "sdpa with packing and bf16 may train on a loss of 0.0 before sm_90 (H100)",
            "attn_implementation",
            "set attn_implementation: flash_attention_2, or sample_packing: false",
        )


def _attention(plan: Plan) -> Iterator[Check]:
    """Attention kernels that the hardware or the model does not have."""
    if not plan.flash:
        return
    where = "attn_implementation" if plan.get("attn_implementation") else "flash_attention"
    if plan.on_cpu:
        yield Check("flash attention runs on CUDA alone", where, "use sdpa")
    elif plan.get("attn_implementation") == "flash_attention_3" and not plan.hopper:
        # Its kernels are written for Hopper (Dao-AILab/flash-attention, hopper/).
        yield Check("flash attention 3 needs sm_90 (H100)", where, "use flash_attention_2")
    if plan.model_type in NO_FLASH_ATTENTION:
        yield Check(
            f"transformers has no flash attention for a '{plan.model_type}' model",
            where,
            "use eager",
        )


def _method(plan: Plan) -> Iterator[Check]:
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
        yield Check(
            f"no plugin brings the adapter '{adapter}'",
            "adapter",
            f"use {', '.join(BUILT_IN_ADAPTERS)}, or name the plugin in 'plugins'",
        )


def _cpu(plan: Plan) -> Iterator[Check]:
    """What exists on CUDA alone."""
    if not plan.on_cpu:
        return
    # schemas/config.py, check_auto_enable_lora_kernels: on by themselves unless one is given
    given = [plan.get(key) for key in LORA_KERNELS]
    if plan.get("adapter") in ("lora", "qlora") and (any(given) or given == [None] * len(given)):
        yield Check(
            "Axolotl's fused LoRA kernels run on CUDA alone, and turn themselves on",
            LORA_KERNELS[0],
            f"set {', '.join(LORA_KERNELS)} to false",
        )
    for plugin in ("LigerPlugin", "CutCrossEntropyPlugin"):
        if plan.plugin(plugin):
            yield Check(f"the kernels of {plugin} run on CUDA alone", "plugins", "remove it")
    if "8bit" in str(plan.get("optimizer")) or "4bit" in str(plan.get("optimizer")):
        yield Check("its kernels run on CUDA alone", "optimizer", "use adamw_torch")
    for key in ("fsdp_config", "fsdp", "deepspeed"):
        # Seen: both ask CUDA for a device (facts: FSDP2 and DeepSpeed need a shim for it).
        if plan.get(key):
            yield Check("there is no GPU to shard over", key, "remove it, or choose a cluster")


# Not bitsandbytes, but torchao: they take sharded weights, and their state cannot be saved.
_TORCHAO_OPTIMIZERS = frozenset(
    {"adamw_torch_8bit", "adamw_torch_4bit", "ao_adamw_8bit", "ao_adamw_4bit", "ao_adamw_fp8"}
)


def _state_dict(plan: Plan) -> Iterator[Check]:
    section = plan.fsdp
    if section is None or section.get("state_dict_type") not in (
        "FULL_STATE_DICT",
        "LOCAL_STATE_DICT",
    ):
        return
    # huggingface/accelerate#4206: after a resume only rank 0's shard of the adapter is restored.
    lora = bool(plan.get("adapter"))
    yield Check(
        "with LoRA, a resume from a full state dict restores one rank's shard and says nothing"
        if lora
        else "every save gathers the whole model and its optimizer on one node's memory",
        "fsdp_config.state_dict_type",
        "set SHARDED_STATE_DICT",
        "problem" if lora else "warning",
    )


def _checkpointing(plan: Plan) -> Iterator[Check]:
    section = plan.fsdp
    recomputing = plan.get("gradient_checkpointing")
    # accelerate/utils/fsdp_utils.py:615 wraps the children of every layer without the state of the
    # random numbers; axolotl/monkeypatch/accelerate/fsdp2.py:485 wraps the layers again. The final
    # adapter's names then hold `_checkpoint_wrapped_module`, and PEFT only warns of that. Beside
    # gradient_checkpointing transformers/trainer.py:844 refuses it, after the model is loaded.
    if section and section.get("activation_checkpointing"):
        adapter = bool(plan.get("adapter"))
        yield Check(
            "the adapter would be saved under names that cannot be loaded, and dropout would "
            "differ between the forward and the backward pass"
            if adapter
            else "the trainer refuses it beside gradient_checkpointing"
            if recomputing
            else "layers and their parts are both wrapped, so that much is computed three times",
            "fsdp_config.activation_checkpointing",
            "remove it, and set gradient_checkpointing: true with "
            "gradient_checkpointing_kwargs: {use_reentrant: false}",
            "problem" if adapter or recomputing else "warning",
        )


def _optimizer(plan: Plan) -> Iterator[Check]:
    name = str(plan.get("optimizer") or "")
    if plan.fsdp is None or not name:
        return
    # core/trainers/mixins/checkpoints.py catches the error of the save and goes on
    if name in _TORCHAO_OPTIMIZERS:
        yield Check(
            "under FSDP its state may not be saved, and Adam then restarts after every resume",
            "optimizer",
            "use adamw_torch_fused where memory allows",
            "warning",
        )
    # schemas/validation.py, check_fsdp2_w_8bit_optimizer names two; bitsandbytes' other 8-bit
    # optimizers call the same CUDA kernels on sharded weights.
    elif "8bit" in name and (plan.fsdp2 or (plan.fsdp or {}).get("offload_params")):
        yield Check(
            "bitsandbytes' 8-bit optimizers do not work on FSDP2's sharded weights",
            "optimizer",
            "use adamw_torch_fused, or adamw_torch_8bit where memory is short",
        )


def _quantised(plan: Plan) -> Iterator[Check]:
    # FSDP1 flattens weights of one type; int8 weights cannot join (monkeypatch/fsdp2_qlora.py
    # teaches FSDP2 alone about them).
    if plan.fsdp is not None and plan.get("load_in_8bit") and not plan.fsdp2:
        yield Check("FSDP1 cannot shard 8-bit weights", "load_in_8bit", "set fsdp_version: 2")


def _dora(plan: Plan) -> Iterator[Check]:
    """Fused LoRA kernels on DoRA's sharded magnitudes (axolotl/kernels/lora.py:110-113)."""
    if not plan.get("peft_use_dora") or plan.fsdp is None:
        return
    given = {key: plan.get(key) for key in LORA_KERNELS}
    # schemas/config.py, check_auto_enable_lora_kernels: on by themselves unless one is given
    automatic = (
        plan.get("adapter") in ("lora", "qlora")
        and set(given.values()) == {None}
        and not (plan.get("load_in_8bit") or plan.get("trust_remote_code"))
    )
    for key in LORA_KERNELS[:3]:
        if given[key] or automatic:
            yield Check(
                "the fused LoRA kernels gather DoRA's magnitudes past FSDP, which then does not "
                "reduce their gradients: each GPU learns them from its own rows",
                key,
                f"set {', '.join(LORA_KERNELS)} to false, or sharding: ddp",
            )
            return


def _engines(plan: Plan) -> Iterator[Check]:
    # schemas/validation.py looks at the old `fsdp` alone; with fsdp_config, prepare_optim_env in
    # utils/trainer.py takes FSDP and leaves DeepSpeed out.
    if plan.get("deepspeed") and plan.fsdp is not None:
        yield Check("FSDP is configured as well", "deepspeed", "remove one of the two")
    if plan.fsdp is not None and not plan.on_cpu and plan.world_size == 1:
        yield Check("there is one GPU only", "fsdp_config", "remove it", "warning")
    if plan.fsdp is not None and not plan.fsdp2:
        # transformers removes FSDP1 in 5.20 (schemas/validation.py, check_fsdp_version)
        yield Check(
            "FSDP1 is deprecated, and multitask's checkpoints are tested with FSDP2",
            "fsdp_version",
            "set fsdp_version: 2",
            "warning",
        )
    quantised = plan.get("load_in_4bit") or plan.get("load_in_8bit")
    unsharded = plan.fsdp is None and not plan.get("deepspeed") and plan.world_size > 1
    if unsharded and not quantised and not plan.get("adapter") and not plan.on_cpu:
        yield Check(
            "every GPU holds the whole model, its gradients and its optimizer",
            "fsdp_config",
            "let the cluster decide: remove what switches sharding off",
            "warning",
        )


def _parallelism(plan: Plan) -> Iterator[Check]:
    """utils/distributed.py, _get_parallel_config_kwargs, before a cluster is rented."""
    sizes = {
        key: int(plan.get(key) or 1)
        for key in (
            "dp_replicate_size",
            "dp_shard_size",
            "tensor_parallel_size",
            "context_parallel_size",
        )
        if str(plan.get(key) or 1).isdigit()
    }
    product = math.prod(sizes.values())
    used = [key for key, size in sizes.items() if size > 1]
    if not used:
        return
    shown = " x ".join(f"{key} {sizes[key]}" for key in used)
    if plan.world_size % product or (sizes["dp_shard_size"] > 1 and product != plan.world_size):
        yield Check(
            f"{shown} is {product}, and {plan.world_size} processes train",
            used[0],
            "make their product the number of GPUs",
        )
    if sizes["dp_shard_size"] > 1 and plan.fsdp is None:
        yield Check("it is a size of FSDP's, which is off", "dp_shard_size", "add fsdp_config")
    if sizes["context_parallel_size"] > 1:
        yield Check(
            "the image needs the package ring-flash-attn, which Axolotl does not install by itself",
            "context_parallel_size",
            "pip install 'axolotl[ring-flash-attn]' on every node",
            "warning",
        )
    if sizes["tensor_parallel_size"] > 1 and "8bit" in str(plan.get("optimizer")):
        # schemas/validation.py, check_tensor_parallel_optimizer
        yield Check(
            "8-bit optimizers do not work with tensor parallelism",
            "optimizer",
            "use adamw_torch_fused",
        )


def _compilation(plan: Plan) -> Iterator[Check]:
    if not plan.get("torch_compile"):
        return

    def finding(what: str, fix: str) -> Check:
        return Check(what, "torch_compile", fix, "warning")

    # torch/utils/checkpoint.py disables dynamo around reentrant checkpoints, and Axolotl's
    # normalize_config chooses reentrant where nothing is said (utils/config/__init__.py).
    arguments = plan.section("gradient_checkpointing_kwargs")
    if plan.get("gradient_checkpointing") and arguments.get("use_reentrant") is not False:
        yield finding(
            "reentrant gradient checkpointing keeps the layers from being compiled",
            "set gradient_checkpointing_kwargs: {use_reentrant: false}",
        )
    # bitsandbytes' quantised layers are custom autograd functions: a graph break in each
    if plan.get("load_in_4bit") or plan.get("load_in_8bit"):
        yield finding("quantised layers break the graph, so little is gained", "remove it")
    if plan.get("sample_packing") and plan.get("pad_to_sequence_len") is False:
        yield finding(
            "sequences of changing length are compiled again and again",
            "remove pad_to_sequence_len: false",
        )
    # schemas/config.py, check_cudagraphs_wo_static_shapes
    options = plan.section("torch_compile_options")
    if plan.get("sample_packing") and options.get("triton.cudagraphs"):
        yield finding("CUDA graphs need fixed shapes, and packed rows have none", "drop cudagraphs")
    if plan.get("deepspeed"):
        # DeepSpeed's hooks fire between layers; its own compiler is Axolotl's `deepcompile`.
        yield finding("DeepSpeed's hooks break the graph at every layer", "use FSDP, or remove it")
    if plan.on_cpu:
        yield finding("on a CPU compiling needs a C++ compiler and minutes", "remove it")


RULES = (
    _run_contract,
    _resuming,
    _data,
    _packing,
    _attention,
    _method,
    _cpu,
    _state_dict,
    _checkpointing,
    _optimizer,
    _quantised,
    _dora,
    _engines,
    _parallelism,
    _compilation,
)
