"""Values that Axolotl takes and that ruin a run: each is found, with a setting that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.build import build_config
from multitask.checks import Check
from multitask.data.tokens import Workload
from multitask.errors import InputError
from multitask.models import ModelInfo, model_info
from multitask.planning.decide import decide
from multitask.runners.axolotl import value_table
from multitask.runners.axolotl.checks import check_config, plan_of
from multitask.spec import Spec

_NOWHERE = Path("/nowhere")
_WORK = Workload(rows=10_000, validation_rows=1_000, tokens_per_row=60.0, longest=300, counted=True)
_LLAMA, _GEMMA2 = "meta-llama/Llama-3.1-8B-Instruct", "google/gemma-2-9b-it"
_PHI4_MINI, _FALCON = "microsoft/Phi-4-mini-instruct", "tiiuae/falcon-7b"


def _find(
    axolotl: dict[str, Any], *, model: str = _LLAMA, info: ModelInfo | None = None, **spec: Any
) -> list[Check]:
    whole = Spec.model_validate(
        {"model": model, "tasks": ["banking77"], "axolotl": axolotl, **spec}
    )
    known = info or model_info(model, _NOWHERE)
    return check_config(plan_of(decide(whole, known, _WORK, refuse=False)))


def _severity(findings: list[Check], where: str) -> str | None:
    found = [f for f in findings if f.place == where]
    assert all(f.answer and f.remedy for f in found)
    return found[0].severity if found else None


# By what is wrong: keys under `axolotl`, other keys of the spec, the place and how bad it is.
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    # Numbers out of every range
    "rate too high": ({"learning_rate": 1.0}, {}, "learning_rate", "problem"),
    "rate of 2 in quotes": ({"learning_rate": "2"}, {}, "learning_rate", "problem"),
    "rate too high for full": (
        {"learning_rate": 2e-3}, {"method": "full"}, "learning_rate", "problem"
    ),
    "rate high": ({"learning_rate": 5e-3}, {}, "learning_rate", "warning"),
    "rate too low": ({"learning_rate": 1e-9}, {}, "learning_rate", "problem"),
    "our own rate": ({}, {"learning_rate": 3.0}, "learning_rate", "problem"),
    "rate of zero": ({"learning_rate": 0}, {}, "learning_rate", "problem"),
    "infinite": ({"weight_decay": float("inf")}, {}, "weight_decay", "problem"),
    "not a number": ({"max_grad_norm": float("nan")}, {}, "max_grad_norm", "problem"),
    "weights that grow": ({"weight_decay": -0.1}, {}, "weight_decay", "problem"),
    "weights pulled to zero": ({"weight_decay": 5}, {}, "weight_decay", "problem"),
    "no clipping": ({"max_grad_norm": 0}, {}, "max_grad_norm", "problem"),
    "beta of one": ({"adam_beta1": 1.0}, {}, "adam_beta1", "problem"),
    "beta2 low": ({"adam_beta2": 0.1}, {}, "adam_beta2", "warning"),
    "epsilon": ({"adam_epsilon": 1}, {}, "adam_epsilon", "problem"),
    "dropout of all": ({"lora_dropout": 1.0}, {}, "lora_dropout", "problem"),
    "dropout negative": ({"lora_dropout": -0.1}, {}, "lora_dropout", "problem"),
    "rank 0": ({"lora_r": 0}, {}, "lora_r", "problem"),
    "rank above the matrix": ({"lora_r": 8192}, {}, "lora_r", "problem"),
    "alpha 0": ({"lora_alpha": 0}, {}, "lora_alpha", "problem"),
    "alpha of another": ({"lora_alpha": 100_000}, {}, "lora_alpha", "problem"),
    "LoRA+ backwards": ({"loraplus_lr_ratio": 0.1}, {}, "loraplus_lr_ratio", "warning"),
    "NEFTune": ({"neftune_noise_alpha": 1000}, {}, "neftune_noise_alpha", "problem"),
    "no epochs": ({"num_epochs": 0}, {}, "num_epochs", "problem"),
    "many epochs": ({}, {"epochs": 200}, "num_epochs", "warning"),
    "negative steps": ({"max_steps": -1}, {}, "max_steps", "problem"),
    "no batch": ({"micro_batch_size": 0}, {}, "micro_batch_size", "problem"),
    "no accumulation": (
        {"gradient_accumulation_steps": 0}, {}, "gradient_accumulation_steps", "problem"
    ),
    "seed": ({"seed": -1}, {}, "seed", "problem"),
    "timeout": ({"ddp_timeout": 1}, {}, "ddp_timeout", "problem"),
    "true for a number": ({"num_epochs": True}, {}, "num_epochs", "problem"),
    "one row a sequence": (
        {"sample_packing_bin_size": 1}, {}, "sample_packing_bin_size", "problem"
    ),
    "watchdog": ({"loss_watchdog_threshold": 0.01}, {}, "loss_watchdog_threshold", "warning"),
    # Intervals that never come
    "warm-up without end": ({"warmup_steps": 100_000}, {}, "warmup_steps", "problem"),
    "warm-up of all": ({"warmup_ratio": 1.0}, {}, "warmup_ratio", "problem"),
    "no save": ({"save_steps": 10**6}, {}, "save_steps", "warning"),
    "no save, our key": ({}, {"checkpoint": {"save_steps": 10**6}}, "save_steps", "warning"),
    "no log": ({"logging_steps": 10**6}, {}, "logging_steps", "warning"),
    "no patience": (
        {}, {"evaluation": {"early_stopping": {"patience": 500}}},
        "multitask.evaluation.early_stopping.patience", "warning",
    ),
    "rows never seen": ({"max_steps": 3}, {}, "max_steps", "warning"),
    # Schedules
    "plateau": ({"lr_scheduler": "reduce_lr_on_plateau"}, {}, "lr_scheduler", "problem"),
    "no decay steps": ({"lr_scheduler": "warmup_stable_decay"}, {}, "lr_scheduler", "problem"),
    "floor above the peak": (
        {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1}}, {},
        "lr_scheduler_kwargs.min_lr", "problem",
    ),
    "floor of one": ({"cosine_min_lr_ratio": 1.0}, {}, "cosine_min_lr_ratio", "problem"),
    # Without effect
    "LoRA's in full": ({"lora_r": 8}, {"method": "full"}, "lora_r", "warning"),
    "prefetch": (
        {"dataloader_num_workers": 0}, {}, "dataloader_prefetch_factor", "warning"
    ),
    "another's beta": ({"adam_beta3": 0.9}, {}, "adam_beta3", "warning"),
    "preferences": ({"rl_beta": 0.1}, {}, "rl_beta", "warning"),
    # Another training, another model, other data
    "preference training": ({"rl": "dpo"}, {}, "rl", "problem"),
    "random weights": ({"reinit_weights": True}, {}, "reinit_weights", "problem"),
    "another class": (
        {"type_of_model": "T5ForConditionalGeneration"}, {}, "type_of_model", "problem"
    ),
    "another base": ({"base_model": "a/b"}, {}, "base_model", "problem"),
    "another tokenizer": ({"tokenizer_config": "a/b"}, {}, "tokenizer_config", "problem"),
    "another method": ({"adapter": None}, {}, "adapter", "problem"),
    "fewer layers": (
        {"overrides_of_model_config": {"num_hidden_layers": 2}}, {},
        "overrides_of_model_config.num_hidden_layers", "problem",
    ),
    "a part of the rows": ({"dataset_shard_num": 2}, {}, "dataset_shard_num", "problem"),
    "deduplicated": (
        {"dataset_exact_deduplication": True}, {}, "dataset_exact_deduplication", "problem"
    ),
    "cut answers": (
        {"excess_length_strategy": "truncate"}, {}, "excess_length_strategy", "problem"
    ),
    "prompts too": ({"train_on_inputs": True}, {}, "train_on_inputs", "warning"),
    "prompts alone": (
        {"datasets": [{"path": "data/train.jsonl", "ds_type": "json", "type": "chat_template",
                       "field_messages": "messages", "roles_to_train": ["user"]}]}, {},
        "datasets[0].roles_to_train", "problem",
    ),
    "no end": (
        {"datasets": [{"path": "data/train.jsonl", "ds_type": "json", "type": "chat_template",
                       "field_messages": "messages", "train_on_eos": "none"}]}, {},
        "datasets[0].train_on_eos", "problem",
    ),
    "one task alone": (
        {}, {"balance": {"loss_weights": {"banking77": 1e6}}},
        "multitask.balance.loss_weights", "problem",
    ),
    # Layers and modules that the model does not have
    "a layer's name": (
        {"lora_target_modules": ["q_proj", "query"]}, {}, "lora_target_modules", "problem"
    ),
    "a layer's number": (
        {"peft_layers_to_transform": [31, 32]}, {}, "peft_layers_to_transform", "problem"
    ),
    "a layer's class": (
        {"fsdp_config": {"transformer_layer_cls_to_wrap": "MistralDecoderLayer",
                         "state_dict_type": "SHARDED_STATE_DICT"}}, {},
        "fsdp_config.transformer_layer_cls_to_wrap", "problem",
    ),
    "a saved module": ({"lora_modules_to_save": ["score"]}, {}, "lora_modules_to_save", "problem"),
    "a rank's pattern": ({"lora_rank_pattern": {"wq": 4}}, {}, "lora_rank_pattern", "problem"),
    "a parameter": (
        {"unfrozen_parameters": ["transformer.h.0"]}, {"method": "full"},
        "unfrozen_parameters", "problem",
    ),
    "tokens untrained": ({"tokens": ["<new>"]}, {}, "tokens", "problem"),
    # Precision, kernels and losses that clash
    "two halves": ({"fp16": True}, {}, "fp16", "problem"),
    "flash in float32": ({"bf16": False}, {}, "bf16", "problem"),
    "two quantisations": (
        {"load_in_4bit": True, "load_in_8bit": True}, {}, "load_in_8bit", "problem"
    ),
    "no logits": ({"plugins": ["multitask.plugin.MultitaskPlugin",
                               "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"],
                   "cut_cross_entropy": True}, {}, "cut_cross_entropy", "problem"),
    "start that is none": (
        {"peft_init_lora_weights": "pisa"}, {}, "peft_init_lora_weights", "problem"
    ),
    "start of another": (
        {"peft_init_lora_weights": "pissa"}, {}, "peft_init_lora_weights", "problem"
    ),
    # Lengths
    "beyond the model": ({"sequence_len": 200_000}, {}, "sequence_len", "problem"),
    "beyond the model, our key": ({}, {"sequence_len": 200_000}, "sequence_len", "problem"),
    "rows dropped": ({}, {"sequence_len": 64}, "sequence_len", "warning"),
    "most rows dropped": ({"sequence_len": 32}, {}, "sequence_len", "problem"),
    # What the plan was made for
    "too large a batch": ({"micro_batch_size": 256}, {}, "micro_batch_size", "problem"),
    "nothing recomputed": (
        {"gradient_checkpointing": False, "micro_batch_size": 8, "sequence_len": 8192},
        {"method": "full"}, "micro_batch_size", "problem",
    ),
    "no sharding": ({"fsdp_config": None}, {"method": "full"}, "fsdp_config", "problem"),
    "no wrapping": (
        {"fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}, {},
        "fsdp_config.auto_wrap_policy", "warning",
    ),
    "padding": (
        {"sample_packing": False, "sequence_len": 2048}, {}, "pad_to_sequence_len", "warning"
    ),
    "a save a step": ({"save_steps": 0.001}, {}, "save_steps", "warning"),
    "foreign turns": ({"chat_template": "chatml"}, {}, "chat_template", "warning"),
    "base and adapter": (
        {"unfrozen_parameters": ["lm_head"]}, {}, "unfrozen_parameters", "problem"
    ),
    # Keys taken away, arguments past the keys, paths
    "no rank at all": ({"lora_r": None}, {}, "lora_r", "problem"),
    "no layers": ({"lora_target_modules": []}, {}, "lora_target_modules", "problem"),
    "no pattern": ({"lora_target_modules": "([bad"}, {}, "lora_target_modules", "problem"),
    "half a step": ({"save_steps": 1.5}, {}, "save_steps", "problem"),
    "no such argument": (
        {"lr_scheduler_kwargs": {"nonsense": 1}}, {}, "lr_scheduler_kwargs.nonsense", "problem"
    ),
    "a rate past the schedule": ({"optim_args": {"lr": 5}}, {}, "optim_args", "problem"),
    "betas past the limits": ({"optim_args": "betas=(2,3)"}, {}, "optim_args", "problem"),
    "divided batches": (
        {"accelerator_config": {"split_batches": True}}, {},
        "accelerator_config.split_batches", "problem",
    ),
    "no end token": ({"eot_tokens": []}, {}, "eot_tokens", "problem"),
    "no adapter there": ({"lora_model_dir": "/nowhere/a"}, {}, "lora_model_dir", "problem"),
    "two attentions": ({"xformers_attention": True}, {}, "xformers_attention", "problem"),
    "bf16 adapter": (
        {"peft_autocast_adapter_dtype": False}, {}, "peft_autocast_adapter_dtype", "warning"
    ),
    "merged restarts": ({"relora": True}, {}, "relora", "problem"),
    "streamed": ({"streaming": True}, {}, "streaming", "problem"),
    "a gain of five": (
        {}, {"evaluation": {"early_stopping": {"patience": 1, "min_delta": 5}}},
        "multitask.evaluation.early_stopping.min_delta", "problem",
    ),
    "balance without bound": (
        {}, {"balance": {"schedule": "lagging", "limit": 1e6}}, "multitask.balance.limit", "warning"
    ),
    # Evaluation
    "evaluation at every start": ({"eval_steps": 100}, {}, "eval_steps", "warning"),
    "stopped by all tasks together": (
        {"early_stopping_patience": 2}, {}, "early_stopping_patience", "problem"
    ),
    "best of nothing": ({"load_best_model_at_end": True}, {}, "load_best_model_at_end", "warning"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str) -> None:
    axolotl, spec, where, severity = FAULTS[name]
    assert _severity(_find(axolotl, **spec), where) == severity


@pytest.mark.parametrize(
    ("model", "axolotl", "where"),
    [
        (_GEMMA2, {"attn_implementation": "sdpa", "sample_packing": False}, "attn_implementation"),
        (_GEMMA2, {"attn_implementation": "xformers"}, "attn_implementation"),
        ("bigscience/bloom-560m", {"attn_implementation": "sdpa"}, "attn_implementation"),
        (_FALCON, {"attn_implementation": "eager", "sample_packing": True}, "sample_packing"),
        (_LLAMA, {"attn_implementation": "sage"}, "sample_packing"),
        (_LLAMA, {"batch_flattening": True, "attn_implementation": "sdpa"}, "batch_flattening"),
        (_PHI4_MINI, {"liger_rope": True}, "liger_rope"),
        (_PHI4_MINI, {"lora_qkv_kernel": True}, "lora_qkv_kernel"),
        (_LLAMA, {"is_mistral_derived_model": True}, "is_mistral_derived_model"),
    ],
)
def test_what_a_model_cannot_do_is_found(model: str, axolotl: dict[str, Any], where: str) -> None:
    findings = _find(axolotl, model=model)
    assert _severity(findings, where) == "problem"


@pytest.mark.parametrize(
    "axolotl",
    [
        {},
        {"learning_rate": 1e-4, "weight_decay": 0.1, "max_grad_norm": 0.5, "adam_beta2": 0.95},
        {"lora_r": 64, "lora_alpha": 128, "lora_dropout": 0.1},
        {"lora_target_modules": ["q_proj", "v_proj"]},
        {"lora_target_modules": r"model\.layers\.\d+\.self_attn\.[qv]_proj"},
        {"lora_modules_to_save": ["embed_tokens", "lm_head"]},
        {"peft_layers_to_transform": [0, 31]},
        {"warmup_steps": 10},
        {"lr_scheduler": "linear"},
        {"attn_implementation": "flash_attention_2"},
        {"optimizer": "adamw_torch"},
        {"neftune_noise_alpha": 5},
        {"logging_steps": 1, "micro_batch_size": 2},
    ],
)
def test_sound_values_are_let_pass(axolotl: dict[str, Any]) -> None:
    assert _find(axolotl) == []


def test_a_small_model_may_learn_faster(toy: Path) -> None:
    info = model_info(str(toy), _NOWHERE)
    findings = _find({}, info=info, method="full", cluster="cpu", learning_rate=3e-3)
    assert _severity(findings, "learning_rate") is None


def test_every_key_of_axolotls_schema_has_been_looked_at() -> None:
    """A new version's keys need limits, a need, a rule, or a place among the harmless."""
    snapshot = Path(value_table.__file__).with_name("axolotl_schema.json")
    keys = set(json.loads(snapshot.read_text())["keys"])
    needs = {key for need in value_table.NEEDS for key in need.keys}
    refused = {key for refusal in value_table.REFUSED for key in refusal.keys}
    judged = set(value_table.LIMITS) | needs | refused | value_table.HARMLESS | value_table.RULED
    assert judged == keys
    loose = value_table.HARMLESS & (set(value_table.LIMITS) | refused | value_table.RULED)
    assert loose == set()


def test_every_number_of_the_schema_has_limits_or_no_place_in_a_run() -> None:
    snapshot = Path(value_table.__file__).with_name("axolotl_schema.json")
    keys = json.loads(snapshot.read_text())["keys"]
    numeric = {
        key
        for key, schema in keys.items()
        if {part.get("type") for part in schema.get("anyOf", [schema])} & {"integer", "number"}
    }
    needs = {
        key
        for need in value_table.NEEDS
        for key in need.keys
        if any(word in need.what for word in ("from preferences", "no samples", "are text"))
    }
    refused = {key for refusal in value_table.REFUSED for key in refusal.keys}
    left = numeric - set(value_table.LIMITS) - needs - refused - value_table.HARMLESS
    # Judged by rules that take more than a range.
    assert left <= value_table.RULED | {
        "jagged_restart_steps", "jagged_restart_warmup_steps", "jagged_restart_anneal_steps",
        "pose_max_context_len", "pose_num_chunks", "relora_prune_ratio",
    }  # fmt: skip


@pytest.mark.parametrize("key", sorted(value_table.LIMITS))
def test_limits_are_sound(key: str) -> None:
    limits = value_table.LIMITS[key]
    assert limits.holds(limits.use)
    assert limits.usual[0] <= limits.use <= limits.usual[1]
    assert not limits.why.endswith(".")


@pytest.mark.parametrize("validate", [False, True])
def test_a_build_is_refused_whether_or_not_axolotl_is_asked(
    validate: bool, write_spec: Any, tmp_path: Path
) -> None:
    from multitask.spec import load_spec

    spec = load_spec(write_spec(axolotl={"lora_dropout": 1.0, "adam_beta1": 1.0}))
    with pytest.raises(InputError) as error:
        build_config(spec, tmp_path / "run", validate=validate)
    message = str(error.value)
    assert "key 'axolotl'" in message
    assert "adam_beta1" in message
    assert "fix: use 0.9" in message
    assert not (tmp_path / "run").exists()


def test_a_key_of_the_spec_is_named_as_the_spec_names_it(write_spec: Any, tmp_path: Path) -> None:
    from multitask.spec import load_spec

    spec = load_spec(write_spec(model=_LLAMA, learning_rate=9.0))
    with pytest.raises(InputError, match="the spec: learning_rate"):
        build_config(spec, tmp_path / "run", validate=False)


def test_a_users_key_displaces_what_says_the_opposite(write_spec: Any, tmp_path: Path) -> None:
    """With both, Axolotl adds lora_target_linear's layers (loaders/adapter.py), or refuses."""
    from multitask.spec import load_spec

    own = {"lora_target_modules": ["q_proj"], "warmup_steps": 0}
    spec = load_spec(
        write_spec(model=_LLAMA, method="lora", cluster="1xh100", axolotl=own, tasks=["banking77"])
    )
    config = yaml.safe_load(
        build_config(spec, tmp_path / "run", validate=False).run.axolotl.read_text()
    )
    assert "lora_target_linear" not in config
    assert "warmup_ratio" not in config
