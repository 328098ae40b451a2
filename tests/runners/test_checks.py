"""Each trap: what is found, and whether Axolotl's own validator would have said it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.cluster import load_cluster
from multitask.errors import InputError
from multitask.models import model_info
from multitask.planning.decide import decide
from multitask.planning.setup import Setup
from multitask.resources import config_names
from multitask.runners.axolotl.checks import check_config, check_traps, plan_of
from multitask.runners.axolotl.distributed import NO_FLASH_ATTENTION, NO_POSITIONS
from multitask.runners.axolotl.plan import Plan
from multitask.runners.axolotl.validate import AxolotlValidator, axolotl_installed
from multitask.spec import Spec

_LLAMA = model_info("meta-llama/Llama-3.1-8B", Path("/nowhere"))
_LIGER = "axolotl.integrations.liger.LigerPlugin"
_OURS = "multitask.plugin.MultitaskPlugin"


def _shipped(cluster: str, method: str) -> Setup:
    spec = Spec.model_validate(
        {"model": "a/b", "tasks": ["banking77"], "cluster": cluster, "method": method}
    )
    return decide(spec, _LLAMA, refuse=False)


def _base(*, lora: bool = True, fsdp: bool = True) -> dict[str, Any]:
    """A configuration of our own making, so that other defaults do not decide these tests."""
    config: dict[str, Any] = {
        "base_model": "a/b",
        "plugins": [_OURS],
        "datasets": [{"path": "data/train.jsonl", "ds_type": "json", "type": "chat_template"}],
        "test_datasets": [
            {"path": "data/validation.jsonl", "ds_type": "json", "type": "chat_template"}
        ],
        "output_dir": "model",
        "sequence_len": 2048,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_epochs": 2,
        "learning_rate": 1e-4,
        "optimizer": "adamw_torch_fused",
        "bf16": True,
        "attn_implementation": "flash_attention_2",
        "sample_packing": True,
        "eval_sample_packing": False,
        "save_total_limit": 3,
    }
    if lora:
        config |= {"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_target_linear": True}
    if fsdp:
        config |= {
            "fsdp_version": 2,
            "fsdp_config": {
                "state_dict_type": "SHARDED_STATE_DICT",
                "reshard_after_forward": True,
            },
        }
    return config


@dataclass(frozen=True)
class Trap:
    """Changes to the base that walk into one trap.

    Attributes:
        where: The key that the finding names.
        change: Top-level keys; None removes one.
        fsdp: Keys of ``fsdp_config``.
        severity: The finding's.
        axolotl: Whether Axolotl's validator refuses it as well; None where the question makes no
            sense, such as for a CPU.
        target: Keyword arguments of the check.
    """

    where: str
    change: dict[str, Any] = field(default_factory=dict)
    fsdp: dict[str, Any] = field(default_factory=dict)
    severity: str = "problem"
    axolotl: bool | None = False
    lora: bool = True
    sharded: bool = True
    target: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        config = _base(lora=self.lora, fsdp=self.sharded)
        if self.fsdp:
            config["fsdp_config"] |= self.fsdp
        config |= self.change
        return {key: value for key, value in config.items() if value is not None}


_DATA = {"path": "data/train.jsonl", "ds_type": "json", "type": "chat_template"}
_CPU_TARGET = {"on_cpu": True, "world_size": 1, "compute_capability": None}
_CPU = {"axolotl": None, "sharded": False, "target": _CPU_TARGET}

TRAPS = {
    # What multitask's commands rely on
    "no plugin": Trap("plugins", {"plugins": [_LIGER]}),
    "other output": Trap("output_dir", {"output_dir": "elsewhere"}),
    "other data": Trap(
        "datasets", {"datasets": [_DATA | {"path": "other/data"}]}, severity="warning"
    ),
    "other validation": Trap(
        "test_datasets", {"test_datasets": [_DATA | {"path": "x"}]}, severity="warning"
    ),
    "tail as validation": Trap("val_set_size", {"val_set_size": 0.1, "test_datasets": None}),
    # Resuming
    "auto resume": Trap("auto_resume_from_checkpoints", {"auto_resume_from_checkpoints": True}),
    "fixed resume": Trap(
        "resume_from_checkpoint", {"resume_from_checkpoint": "c"}, severity="warning"
    ),
    "one checkpoint": Trap("save_total_limit", {"save_total_limit": 1}),
    "no checkpoint": Trap("save_strategy", {"save_strategy": "no"}, severity="warning"),
    "only model, sharded": Trap("save_only_model", {"save_only_model": True}),
    "only model": Trap(
        "save_only_model", {"save_only_model": True}, severity="warning", sharded=False
    ),
    # Data
    "weight": Trap("datasets[0].weight", {"datasets": [_DATA | {"weight": 2}]}),
    "pretraining": Trap(
        "pretraining_dataset",
        {"pretraining_dataset": [{"path": "a"}, {"path": "b"}], "max_steps": 9},
        axolotl=None,
    ),
    # Packing and attention
    "no positions": Trap("sample_packing", target={"model_type": "bloom"}),
    "no attention": Trap("attn_implementation", {"attn_implementation": None}),
    "sdpa packed": Trap("attn_implementation", {"attn_implementation": "sdpa"}),
    "sdpa packed, old key": Trap(
        "attn_implementation", {"attn_implementation": None, "sdp_attention": True}
    ),
    "flash 3": Trap("attn_implementation", {"attn_implementation": "flash_attention_3"}),
    "no flash": Trap(
        "attn_implementation", {"sample_packing": False}, target={"model_type": "bloom"}
    ),
    # Methods
    "unknown adapter": Trap("adapter", {"adapter": "lara"}, axolotl=True),
    # CPU
    "kernels on a CPU": Trap(
        "lora_mlp_kernel", {"bf16": False, "attn_implementation": "sdpa"}, **_CPU
    ),
    "flash on a CPU": Trap("attn_implementation", lora=False, **_CPU),
    "liger on a CPU": Trap("plugins", {"plugins": [_OURS, _LIGER]}, lora=False, **_CPU),
    "8 bit on a CPU": Trap("optimizer", {"optimizer": "adamw_8bit"}, lora=False, **_CPU),
    "FSDP on a CPU": Trap("fsdp_config", axolotl=None, target=_CPU_TARGET),
    "DeepSpeed on a CPU": Trap("deepspeed", {"deepspeed": "deepspeed.json"}, **_CPU),
    "compiled on a CPU": Trap("torch_compile", {"torch_compile": True}, severity="warning", **_CPU),
    # FSDP
    "full state with LoRA": Trap(
        "fsdp_config.state_dict_type", fsdp={"state_dict_type": "FULL_STATE_DICT"}
    ),
    "full state": Trap(
        "fsdp_config.state_dict_type",
        fsdp={"state_dict_type": "FULL_STATE_DICT"},
        severity="warning",
        lora=False,
    ),
    "old prefix": Trap(
        "fsdp_config.state_dict_type",
        {"fsdp_config": {"fsdp_state_dict_type": "FULL_STATE_DICT"}},
    ),
    "an adapter that nothing loads": Trap(
        "fsdp_config.activation_checkpointing", fsdp={"activation_checkpointing": True}
    ),
    "twice checkpointed": Trap(
        "fsdp_config.activation_checkpointing",
        {"gradient_checkpointing": True},
        fsdp={"activation_checkpointing": True},
        lora=False,
    ),
    "wrapped twice": Trap(
        "fsdp_config.activation_checkpointing",
        fsdp={"activation_checkpointing": True},
        severity="warning",
        lora=False,
    ),
    "sharded DoRA": Trap("lora_mlp_kernel", {"peft_use_dora": True}),
    "sharded DoRA, asked for": Trap(
        "lora_o_kernel",
        {"peft_use_dora": True, "lora_qkv_kernel": False, "lora_o_kernel": True},
    ),
    "8-bit Adam": Trap("optimizer", {"optimizer": "adamw_8bit"}, axolotl=True),
    "another of bitsandbytes": Trap("optimizer", {"optimizer": "paged_lion_8bit"}),
    "torchao Adam": Trap("optimizer", {"optimizer": "ao_adamw_8bit"}, severity="warning"),
    "8 bit in FSDP1": Trap("load_in_8bit", {"fsdp_version": 1, "load_in_8bit": True}),
    "FSDP1": Trap("fsdp_version", {"fsdp_version": 1}, severity="warning", lora=False),
    "FSDP on one GPU": Trap("fsdp_config", severity="warning", target={"world_size": 1}),
    # With `fsdp` it is refused by Axolotl, with `fsdp_config` it is not.
    "two engines": Trap("deepspeed", {"deepspeed": "deepspeed.json"}),
    "nothing sharded": Trap("fsdp_config", severity="warning", lora=False, sharded=False),
    # Parallelism
    "wrong product": Trap("dp_replicate_size", {"dp_replicate_size": 2, "dp_shard_size": 4}),
    "sharding without FSDP": Trap("dp_shard_size", {"dp_shard_size": 12}, sharded=False),
    "tensor parallel 8 bit": Trap(
        "optimizer", {"tensor_parallel_size": 2, "optimizer": "adamw_8bit"}, axolotl=None
    ),
    # Compilation
    "reentrant": Trap(
        "torch_compile",
        {"torch_compile": True, "gradient_checkpointing": True},
        severity="warning",
        sharded=False,
    ),
    "compiled 4 bit": Trap(
        "torch_compile",
        {"torch_compile": True, "adapter": "qlora", "load_in_4bit": True},
        severity="warning",
    ),
    "changing length": Trap(
        "torch_compile", {"torch_compile": True, "pad_to_sequence_len": False}, severity="warning"
    ),
    "CUDA graphs": Trap(
        "torch_compile",
        {"torch_compile": True, "torch_compile_options": {"triton.cudagraphs": True}},
        severity="warning",
    ),
    "compiled DeepSpeed": Trap(
        "torch_compile",
        {"torch_compile": True, "deepspeed": "deepspeed.json"},
        severity="warning",
        sharded=False,
    ),
}

# What Axolotl's own validator refuses, so that no rule of ours has to.
REFUSED = {
    "streaming": Trap(
        "streaming", {"streaming": True, "max_steps": 9, "datasets": [_DATA, _DATA]}, axolotl=True
    ),
    "table": Trap(
        "eval_table_size", {"eval_table_size": 5, "eval_sample_packing": None}, axolotl=True
    ),
    "quantised full": Trap("load_in_4bit", {"load_in_4bit": True}, lora=False, axolotl=True),
    "qlora in 16 bit": Trap("adapter", {"adapter": "qlora"}, axolotl=True),
    "qlora in 8 bit": Trap(
        "load_in_8bit",
        {"adapter": "qlora", "load_in_4bit": True, "load_in_8bit": True},
        axolotl=True,
    ),
    "offloading nothing": Trap(
        "activation_offloading", {"activation_offloading": True}, axolotl=True
    ),
    "4 bit from rank 0": Trap(
        "fsdp_config.cpu_ram_efficient_loading",
        {"adapter": "qlora", "load_in_4bit": True},
        fsdp={"cpu_ram_efficient_loading": True},
        axolotl=True,
    ),
    "MXFP4 from rank 0": Trap(
        "fsdp_config.cpu_ram_efficient_loading",
        {"model_quantization_config": "Mxfp4Config"},
        fsdp={"cpu_ram_efficient_loading": True},
        axolotl=True,
    ),
    "ring attention": Trap(
        "context_parallel_size",
        {"context_parallel_size": 2, "attn_implementation": "sdpa", "sample_packing": False},
        axolotl=True,
    ),
    "ring attention packed": Trap(
        "context_parallel_size", {"context_parallel_size": 2}, axolotl=True
    ),
    "options alone": Trap(
        "torch_compile_options", {"torch_compile_options": {"shape_padding": True}}, axolotl=True
    ),
}


def _check(config: dict[str, Any], **target: Any) -> list[tuple[str, str]]:
    default: dict[str, Any] = {
        "on_cpu": False,
        "world_size": 12,
        "compute_capability": "sm_80",
        "model_type": "llama",
    }
    return [(f.place, f.severity) for f in check_traps(Plan(config, **(default | target)))]


def test_the_base_of_these_tests_walks_into_none() -> None:
    for lora in (False, True):
        assert _check(_base(lora=lora)) == []
    assert _check(_base(fsdp=False), world_size=1) == []


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_found(name: str) -> None:
    trap = TRAPS[name]
    assert (trap.where, trap.severity) in _check(trap.config(), **trap.target)


@pytest.mark.parametrize("name", TRAPS)
def test_a_fix_says_what_to_do(name: str) -> None:
    trap = TRAPS[name]
    target: dict[str, Any] = {"on_cpu": False, "world_size": 12} | trap.target
    for finding in check_traps(Plan(trap.config(), **target)):
        assert finding.answer
        assert not finding.answer.endswith(".")
        assert finding.remedy


@pytest.fixture(scope="module")
def validator() -> Iterator[AxolotlValidator]:
    if not axolotl_installed():
        pytest.skip("Axolotl is not installed")
    with AxolotlValidator() as started:
        yield started


def test_axolotl_accepts_the_base_of_these_tests(
    validator: AxolotlValidator, tmp_path: Path
) -> None:
    """Else a refusal below would say nothing about the trap."""
    path = tmp_path / "axolotl.yaml"
    for lora in (False, True):
        for fsdp in (False, True):
            path.write_text(yaml.safe_dump(_base(lora=lora, fsdp=fsdp)))
            warnings = validator.validate(path, load_cluster("3x4-a100-80gb"))
            assert [w.split(" opt")[0] for w in warnings] == ["Auto-enabling LoRA kernel"] * lora


@pytest.mark.parametrize("name", [name for name, trap in TRAPS.items() if trap.axolotl is not None])
def test_axolotl_refuses_what_is_noted(
    validator: AxolotlValidator, tmp_path: Path, name: str
) -> None:
    """Where it starts to refuse, or stops, the note beside the rule must move."""
    trap = TRAPS[name]
    path = tmp_path / "axolotl.yaml"
    path.write_text(yaml.safe_dump(trap.config()))
    try:
        validator.validate(path, load_cluster("3x4-a100-80gb"))
        refused = False
    except InputError:
        refused = True
    assert refused == trap.axolotl


@pytest.mark.parametrize("name", REFUSED)
def test_what_axolotl_refuses_needs_no_rule(
    validator: AxolotlValidator, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "axolotl.yaml"
    path.write_text(yaml.safe_dump(REFUSED[name].config()))
    with pytest.raises(InputError, match="Axolotl refuses the configuration"):
        validator.validate(path, load_cluster("3x4-a100-80gb"))


@pytest.mark.parametrize("cluster", config_names("clusters"))
@pytest.mark.parametrize("method", config_names("methods"))
def test_what_we_write_has_no_error(cluster: str, method: str) -> None:
    findings = check_config(plan_of(_shipped(cluster, method)))
    errors = [str(finding) for finding in findings if not finding.passed]
    assert errors == []


def test_a_key_is_named_once() -> None:
    """A trap says more than the schema: that weights belong into the spec."""
    config = _base() | {"datasets": [_DATA | {"weight": 2}]}
    (finding,) = check_config(Plan(config, on_cpu=False, world_size=12))
    assert "mixture.weights" in finding.remedy


def test_sdpa_is_fine_on_hopper() -> None:
    config = _base() | {"attn_implementation": "sdpa"}
    assert _check(config, compute_capability="sm_90") == []
    assert _check(config, compute_capability="sm_120") == []


def test_an_adapter_may_come_from_a_plugin() -> None:
    config = _base() | {"adapter": "theirs", "plugins": [_OURS, "their.Plugin"]}
    assert _check(config) == []


def test_hybrid_sharding_over_the_cluster_is_fine() -> None:
    assert _check(_base() | {"dp_shard_size": 4, "dp_replicate_size": 3}) == []


def test_odd_values_do_not_crash() -> None:
    for key in _base():
        for value in (None, "x", 3, [], {}, [None]):
            check_config(Plan(_base() | {key: value}, on_cpu=False, world_size=12))


def test_the_models_without_positions_are_transformers() -> None:
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    import inspect

    import transformers

    for model_type in NO_FLASH_ATTENTION:
        model = getattr(transformers, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])
        assert not model._supports_flash_attn, model_type
        has_positions = "position_ids" in inspect.signature(model.forward).parameters
        assert has_positions == (model_type not in NO_POSITIONS), model_type
