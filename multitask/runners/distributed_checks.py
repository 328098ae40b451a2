"""The rules of :mod:`multitask.runners.checks` about sharding, parallelism and compilation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from multitask.runners.finding import Finding
from multitask.runners.plan import LORA_KERNELS, Plan

# Not bitsandbytes, but torchao: they take sharded weights, and their state cannot be saved.
_TORCHAO_OPTIMIZERS = frozenset(
    {"adamw_torch_8bit", "adamw_torch_4bit", "ao_adamw_8bit", "ao_adamw_4bit", "ao_adamw_fp8"}
)


def _state_dict(plan: Plan) -> Iterator[Finding]:
    section = plan.fsdp
    if section is None or section.get("state_dict_type") not in (
        "FULL_STATE_DICT",
        "LOCAL_STATE_DICT",
    ):
        return
    # huggingface/accelerate#4206: after a resume only rank 0's shard of the adapter is restored.
    lora = bool(plan.get("adapter"))
    yield Finding(
        "with LoRA, a resume from a full state dict restores one rank's shard and says nothing"
        if lora
        else "every save gathers the whole model and its optimizer on one node's memory",
        "fsdp_config.state_dict_type",
        "set SHARDED_STATE_DICT",
        "error" if lora else "warning",
    )


def _checkpointing(plan: Plan) -> Iterator[Finding]:
    section = plan.fsdp
    recomputing = plan.get("gradient_checkpointing")
    # accelerate/utils/fsdp_utils.py:615 wraps the children of every layer without the state of the
    # random numbers; axolotl/monkeypatch/accelerate/fsdp2.py:485 wraps the layers again. The final
    # adapter's names then hold `_checkpoint_wrapped_module`, and PEFT only warns of that. Beside
    # gradient_checkpointing transformers/trainer.py:844 refuses it, after the model is loaded.
    if section and section.get("activation_checkpointing"):
        adapter = bool(plan.get("adapter"))
        yield Finding(
            "the adapter would be saved under names that cannot be loaded, and dropout would "
            "differ between the forward and the backward pass"
            if adapter
            else "the trainer refuses it beside gradient_checkpointing"
            if recomputing
            else "layers and their parts are both wrapped, so that much is computed three times",
            "fsdp_config.activation_checkpointing",
            "remove it, and set gradient_checkpointing: true with "
            "gradient_checkpointing_kwargs: {use_reentrant: false}",
            "error" if adapter or recomputing else "warning",
        )
    # schemas/validation.py, check_activation_offloading_wo_gc
    if plan.get("activation_offloading") and not recomputing:
        yield Finding(
            "it works on checkpointed activations",
            "activation_offloading",
            "set gradient_checkpointing: true",
        )


def _optimizer(plan: Plan) -> Iterator[Finding]:
    name = str(plan.get("optimizer") or "")
    if plan.fsdp is None or not name:
        return
    # core/trainers/mixins/checkpoints.py catches the error of the save and goes on
    if name in _TORCHAO_OPTIMIZERS:
        yield Finding(
            "under FSDP its state may not be saved, and Adam then restarts after every resume",
            "optimizer",
            "use adamw_torch_fused where memory allows",
            "warning",
        )
    # schemas/validation.py, check_fsdp2_w_8bit_optimizer names two; bitsandbytes' other 8-bit
    # optimizers call the same CUDA kernels on sharded weights.
    elif "8bit" in name and (plan.fsdp2 or (plan.fsdp or {}).get("offload_params")):
        yield Finding(
            "bitsandbytes' 8-bit optimizers do not work on FSDP2's sharded weights",
            "optimizer",
            "use adamw_torch_fused, or adamw_torch_8bit where memory is short",
        )


def _quantised(plan: Plan) -> Iterator[Finding]:
    section = plan.fsdp
    if section is None:
        return
    # schemas/validation.py, check_fsdp2_cpu_ram_efficient_loading_w_4bit
    if plan.fsdp2 and plan.get("load_in_4bit") and section.get("cpu_ram_efficient_loading"):
        yield Finding(
            "4-bit weights have another shape on rank 0 than elsewhere, and loading deadlocks",
            "fsdp_config.cpu_ram_efficient_loading",
            "set it to false",
        )
    # schemas/validation.py, check_gpt_oss_fsdp_loading
    if plan.get("model_quantization_config") == "Mxfp4Config" and section.get(
        "cpu_ram_efficient_loading"
    ):
        yield Finding(
            "MXFP4 weights cannot be scattered from rank 0",
            "fsdp_config.cpu_ram_efficient_loading",
            "set it to false",
        )
    # FSDP1 flattens weights of one type; int8 weights cannot join (monkeypatch/fsdp2_qlora.py
    # teaches FSDP2 alone about them).
    if plan.get("load_in_8bit") and not plan.fsdp2:
        yield Finding("FSDP1 cannot shard 8-bit weights", "load_in_8bit", "set fsdp_version: 2")


def _dora(plan: Plan) -> Iterator[Finding]:
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
            yield Finding(
                "the fused LoRA kernels gather DoRA's magnitudes past FSDP, which then does not "
                "reduce their gradients: each GPU learns them from its own rows",
                key,
                f"set {', '.join(LORA_KERNELS)} to false, or sharding: ddp",
            )
            return


def _engines(plan: Plan) -> Iterator[Finding]:
    # schemas/validation.py looks at the old `fsdp` alone; with fsdp_config, prepare_optim_env in
    # utils/trainer.py takes FSDP and leaves DeepSpeed out.
    if plan.get("deepspeed") and plan.fsdp is not None:
        yield Finding("FSDP is configured as well", "deepspeed", "remove one of the two")
    if plan.fsdp is not None and not plan.on_cpu and plan.world_size == 1:
        yield Finding("there is one GPU only", "fsdp_config", "remove it", "warning")
    if plan.fsdp is not None and not plan.fsdp2:
        # transformers removes FSDP1 in 5.20 (schemas/validation.py, check_fsdp_version)
        yield Finding(
            "FSDP1 is deprecated, and multitask's checkpoints are tested with FSDP2",
            "fsdp_version",
            "set fsdp_version: 2",
            "warning",
        )
    quantised = plan.get("load_in_4bit") or plan.get("load_in_8bit")
    unsharded = plan.fsdp is None and not plan.get("deepspeed") and plan.world_size > 1
    if unsharded and not quantised and not plan.get("adapter") and not plan.on_cpu:
        yield Finding(
            "every GPU holds the whole model, its gradients and its optimizer",
            "fsdp_config",
            "let the cluster decide: remove what switches sharding off",
            "warning",
        )


def _parallelism(plan: Plan) -> Iterator[Finding]:
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
        yield Finding(
            f"{shown} is {product}, and {plan.world_size} processes train",
            used[0],
            "make their product the number of GPUs",
        )
    if sizes["dp_shard_size"] > 1 and plan.fsdp is None:
        yield Finding("it is a size of FSDP's, which is off", "dp_shard_size", "add fsdp_config")
    if sizes["context_parallel_size"] > 1:
        yield from _context_parallel(plan)
    if sizes["tensor_parallel_size"] > 1 and "8bit" in str(plan.get("optimizer")):
        # schemas/validation.py, check_tensor_parallel_optimizer
        yield Finding(
            "8-bit optimizers do not work with tensor parallelism",
            "optimizer",
            "use adamw_torch_fused",
        )


def _context_parallel(plan: Plan) -> Iterator[Finding]:
    """schemas/validation.py, check_context_parallel_size."""
    key = "context_parallel_size"
    if plan.get("attn_implementation") != "flash_attention_2":
        yield Finding("ring attention needs flash_attention_2", key, "set attn_implementation")
    if plan.get("sample_packing") and int(plan.get("micro_batch_size") or 1) > 1:
        yield Finding(
            "packing with sequence parallelism needs one row per GPU", key, "micro_batch_size: 1"
        )
    yield Finding(
        "the image needs the package ring-flash-attn, which Axolotl does not install by itself",
        key,
        "pip install 'axolotl[ring-flash-attn]' on every node",
        "warning",
    )


def _compilation(plan: Plan) -> Iterator[Finding]:
    # schemas/config.py, check_torch_compile_options_requires_compile
    if plan.get("torch_compile_options") and not plan.get("torch_compile"):
        yield Finding("it needs torch_compile", "torch_compile_options", "set torch_compile: true")
    if not plan.get("torch_compile"):
        return

    def finding(what: str, fix: str) -> Finding:
        return Finding(what, "torch_compile", fix, "warning")

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
    _state_dict,
    _checkpointing,
    _optimizer,
    _quantised,
    _dora,
    _engines,
    _parallelism,
    _compilation,
)
