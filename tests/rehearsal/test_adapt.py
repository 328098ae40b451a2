"""What a rehearsal changes is forced by the CPU, and every change is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multitask.models import model_info
from multitask.planning.decide import decide
from multitask.rehearsal.adapt import adapted
from multitask.resources import config_names
from multitask.runners.axolotl.file import axolotl_file
from multitask.spec import Spec


def _config(**changes: Any) -> dict[str, Any]:
    spec = Spec.model_validate({"model": "Qwen/Qwen3-8B", "tasks": ["banking77"]} | changes)
    return axolotl_file(decide(spec, model_info(spec.model, Path("/nowhere")))).config


@pytest.mark.parametrize("method", config_names("methods"))
def test_the_changes_are_exactly_the_difference(method: str) -> None:
    before = _config(method=method, tracking={"wandb": {"project": "p"}}, torch_compile=True)
    after, changes = adapted(before, model="base_model", steps=8)
    differing = {
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key) or (key in before) != (key in after)
    }
    assert {change.key for change in changes} == differing
    assert all(change.why for change in changes)


def test_what_the_cluster_decides_stays() -> None:
    before = _config(method="full")
    after, _ = adapted(before, model="base_model", steps=8)
    for key in ("fsdp_config", "fsdp_version", "dp_shard_size", "dp_replicate_size", "datasets",
                "sample_packing", "micro_batch_size", "gradient_accumulation_steps", "seed",
                "chat_template", "save_total_limit", "lr_scheduler"):  # fmt: skip
        assert after.get(key) == before.get(key), key


def test_nothing_of_cuda_or_of_the_network_is_left() -> None:
    before = _config(method="qlora", tracking={"wandb": {"project": "p"}}, hub={"repo": "me/it"})
    after, changes = adapted(before, model="base_model", steps=8)
    text = repr(after)
    for word in ("flash", "liger", "fused", "4bit", "wandb", "hub_"):
        assert word not in text
    assert "quantised weights" in {change.unproven for change in changes}


def test_precision_and_attention_s_kernels_stay() -> None:
    """They are plain matrix products, so that dtypes and LoRA's gradients are rehearsed too."""
    after, _ = adapted(_config(method="lora"), model="base_model", steps=8)
    assert after["bf16"] is True
    assert (after["lora_qkv_kernel"], after["lora_o_kernel"]) == (True, True)
    assert (after["lora_mlp_kernel"], after["lora_embedding_kernel"]) == (False, False)
    dora, _ = adapted(_config(method="dora"), model="base_model", steps=8)
    assert dora["lora_qkv_kernel"] is False  # as on the cluster, under FSDP
