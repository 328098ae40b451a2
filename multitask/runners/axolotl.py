"""Axolotl's configuration for a run.

Paths are relative to the run directory, so that it can be copied to a cluster; the plugin anchors
them there when Axolotl loads the file (:mod:`multitask.plugin`).
"""

from __future__ import annotations

from typing import Any

import yaml

from multitask.cluster import Cluster, derive_batch
from multitask.models import ModelInfo
from multitask.resources import load_config
from multitask.spec import Spec

PLUGIN = "multitask.plugin.MultitaskPlugin"

_HEADER = """\
# Written by multitask for the run beside it; started unchanged by
#   accelerate launch --config_file accelerate.yaml -m axolotl.cli.train axolotl.yaml
# Paths are relative to this file's folder (the plugin resolves them).
"""


def axolotl_config(spec: Spec, cluster: Cluster, model: ModelInfo) -> dict[str, Any]:
    """Build Axolotl's configuration.

    Args:
        spec: The user's choices; ``spec.axolotl`` wins over everything here.
        cluster: Where it is trained.
        model: What is known of the model.

    Raises:
        InputError: The method is unknown or the batch cannot be divided.
    """
    method = load_config("methods", spec.method, key="method")
    batch = derive_batch(spec.global_batch_size, cluster)
    quantised = bool(method["axolotl"].get("load_in_4bit"))
    lora = "adapter" in method["axolotl"]
    gpu_or_cpu = (
        _cpu_keys(lora=lora) if cluster.on_cpu else _gpu_keys(cluster, model, quantised=quantised)
    )
    config: dict[str, Any] = {
        "base_model": spec.model,
        "plugins": [PLUGIN],
        # Alpaca's form is for base models, which bring no chat template.
        "chat_template": "alpaca" if spec.templates.format == "alpaca" else "tokenizer_default",
        "datasets": [_dataset("data/train.jsonl")],
        "test_datasets": [_dataset("data/validation.jsonl")],
        "dataset_prepared_path": "prepared",
        "output_dir": "model",
        "sequence_len": spec.sequence_len,
        **method["axolotl"],
        "num_epochs": spec.epochs,
        "micro_batch_size": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "eval_batch_size": batch.micro,
        "learning_rate": spec.learning_rate or method["learning_rate"],
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": spec.seed,
        "logging_steps": 10,
        "evals_per_epoch": 1,
        "save_steps": _whole(spec.checkpoint.save_steps),
        "save_total_limit": spec.checkpoint.keep,
        **gpu_or_cpu,
        **_tracking_keys(spec),
        **({"hub_model_id": spec.hub.repo, "hub_private_repo": True} if spec.hub else {}),
    }
    return config | spec.axolotl


def axolotl_yaml(config: dict[str, Any]) -> str:
    """The configuration as a file."""
    return _HEADER + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _whole(steps: float) -> float | int:
    """A whole number of steps as an int; below 1 it is a share of the run and stays a float."""
    return steps if steps < 1 else round(steps)


def _dataset(path: str) -> dict[str, Any]:
    return {
        "path": path,
        "ds_type": "json",
        "split": "train",  # a JSON file's only split, whatever it is used for
        "type": "chat_template",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }


def _cpu_keys(*, lora: bool) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "optimizer": "adamw_torch",
        "attn_implementation": "sdpa",
        # Without packing (it needs flash attention), rows of like length save most padding.
        "group_by_length": True,
        "dataloader_pin_memory": False,
    }
    if lora:
        # Axolotl turns its fused LoRA kernels on by itself, and they run on CUDA alone.
        kernels = ("mlp", "qkv", "o", "embedding")
        keys |= {f"lora_{kernel}_kernel": False for kernel in kernels}
    return keys


def _gpu_keys(cluster: Cluster, model: ModelInfo, *, quantised: bool) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "bf16": True,
        "tf32": True,
        "optimizer": "adamw_torch_fused",
        "attn_implementation": "flash_attention_2",
        # Short tasks fill a small part of a padded batch; packing puts many rows in a sequence.
        "sample_packing": True,
        "eval_sample_packing": False,
    }
    if cluster.world_size > 1:
        fsdp: dict[str, Any] = {
            "offload_params": False,
            # Rank 0 reads the weights and scatters them; with 4-bit weights that deadlocks.
            "cpu_ram_efficient_loading": not quantised,
            "reshard_after_forward": True,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            # A full state dict restores LoRA wrongly on resume (accelerate#4206).
            "state_dict_type": "SHARDED_STATE_DICT",
            "activation_checkpointing": True,
        }
        if model.layer_class:
            fsdp["transformer_layer_cls_to_wrap"] = model.layer_class
        keys |= {"fsdp_version": 2, "fsdp_config": fsdp}
    else:
        keys["gradient_checkpointing"] = True
    return keys


def _tracking_keys(spec: Spec) -> dict[str, Any]:
    wandb = spec.tracking.wandb
    if wandb is None:
        return {}
    keys = {"wandb_project": wandb.project, "wandb_name": wandb.name or spec.name}
    return keys | ({"wandb_entity": wandb.entity} if wandb.entity else {})
