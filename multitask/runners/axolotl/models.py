"""The rules of `checks` about a model: attention, kernels, layers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from multitask.checks import Check
from multitask.errors import MultitaskError, did_you_mean
from multitask.estimate import estimate
from multitask.models import ModelInfo, rotary_share
from multitask.models.meta import meta_model, transformers_installed
from multitask.runners.axolotl.method import method_keys, training_from
from multitask.runners.axolotl.plan import Plan, number_of
from multitask.runners.axolotl.values import shown

_FLASH = "flash_attention_2"
# What only the model's own file may say: another value is another model.
_SIZES = frozenset(
    (
        "architectures", "attn_logit_softcapping", "final_logit_softcapping", "head_dim",
        "hidden_act", "hidden_activation", "hidden_size", "intermediate_size", "layer_types",
        "model_type", "n_head", "n_layer", "num_attention_heads", "num_hidden_layers",
        "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "vocab_size",
    )
)  # fmt: skip
_DERIVED = {
    "is_llama_derived_model": "llama",
    "is_mistral_derived_model": "mistral",
    "is_falcon_derived_model": "falcon",
    "is_qwen_derived_model": "qwen",
}
_INITS = ("gaussian", "olora", "pissa", "orthogonal", "loftq", "eva", "corda", "lora_ga")


def _same_as(name: str) -> str:
    """The implementation of configs/models that another one computes the same as."""
    return _FLASH if "flash" in name and "flex" not in name else name


def _attention(plan: Plan) -> Iterator[Check]:
    model = plan.model
    name = str(plan.get("attn_implementation") or "")
    if model is None or not name or (model.family is None and "sdpa" in model.attention):
        return
    if _same_as(name) not in model.attention:
        # Where sdpa is right, so is what computes the same softmax another way.
        severe = "sdpa" not in model.attention or name in ("sdpa", "eager")
        yield Check(
            f"it does not compute what a {plan.model_type} model was trained with"
            if severe
            else f"nobody has compared it on {plan.model_type} models",
            "attn_implementation",
            f"use {model.attention_on(flash=not plan.on_cpu)}",
            "problem" if severe else "warning",
        )


def _packing(plan: Plan) -> Iterator[Check]:
    model = plan.model
    name = str(plan.get("attn_implementation") or "")
    flattened = plan.get("batch_flattening")
    if flattened and not plan.flash:
        yield Check(
            "rows of a batch are joined into one sequence, and this attention lets them see each "
            "other",
            "batch_flattening",
            f"set attn_implementation: {_FLASH}, or remove it",
        )
    if model is None or not plan.get("sample_packing") or not name:
        return
    known = {*model.packing, "flex_attention"} if model.packing else set()
    if _same_as(name) in known:
        return
    right = [way for way in model.attention if way in model.packing]
    right = [way for way in right if not plan.on_cpu or not way.startswith("flash")]
    if model.family is None:
        what = "whether packed rows see each other is not known for this model"
    else:
        what = f"with it, packed rows of a {plan.model_type} model see each other"
    fix = "set sample_packing: false" + (f", or attn_implementation: {right[0]}" if right else "")
    yield Check(what, "sample_packing", fix, "warning" if model.family is None else "problem")


def _kernels(plan: Plan) -> Iterator[Check]:
    model = plan.model
    if model is None or model.config is None:
        return
    share = rotary_share(model.config)
    if plan.get("liger_rope") and share != 1.0:
        yield Check(
            f"the model turns {share:.0%} of each head, and Liger's kernel turns all of it",
            "liger_rope",
            "remove it",
        )
    if model.family is None:
        return
    for key in ("liger_rope", "liger_rms_norm", "liger_glu_activation"):
        if plan.get(key) and key not in model.liger and not (key == "liger_rope" and share != 1.0):
            yield Check(
                f"there is no such kernel that is right for this {plan.model_type} model",
                key,
                "remove it",
            )
    if plan.get("cut_cross_entropy") and not model.cut_cross_entropy:
        yield Check(
            f"it does not know '{plan.model_type}' models", "cut_cross_entropy", "remove it"
        )
    on = [key for key in plan.config if re.fullmatch(r"lora_\w+_kernel", key) and plan.get(key)]
    if on and not model.lora_kernels:
        yield Check(
            f"Axolotl cannot patch the attention of a '{plan.model_type}' model, and stops",
            on[0],
            "set it to false",
        )


def _identity(plan: Plan) -> Iterator[Check]:
    """What would train another model, or another method, than the spec says."""
    if "base_model" in plan.own:
        yield Check(
            "memory, layers and template were decided for the spec's `model`",
            "base_model",
            "remove it, and set `model` in the spec",
        )
    if plan.get("unfrozen_parameters") and plan.get("adapter"):
        yield Check(
            "with an adapter the base stays frozen, or both learn and only the adapter is saved",
            "unfrozen_parameters",
            "remove it, or set `method: full`",
        )
    template = str(plan.get("chat_template") or "")
    if "chat_template" in plan.own and template not in ("jinja", "tokenizer_default", "alpaca", ""):
        yield Check(
            "its turn tokens may not be in the model's vocabulary, and would be read as plain text",
            "chat_template",
            "use tokenizer_default, or `templates: {format: alpaca}` in the spec",
            "warning",
        )
    if "trust_remote_code" in plan.own and plan.get("trust_remote_code"):
        yield Check(
            "evaluation and serving do not know of it",
            "trust_remote_code",
            "set `trust_remote_code: true` in the spec",
            "warning",
        )
    method = plan.method
    for key in ("adapter", "load_in_4bit", "load_in_8bit"):
        if method is not None and key in plan.own:
            now, was = plan.get(key) or None, method_keys(method).get(key)
            if now != was:
                yield Check(
                    f"the plan, its estimate and learning rate are those of method '{method.name}'",
                    key,
                    "choose `method` in the spec",
                    "warning" if now else "problem",
                )


def _architecture(plan: Plan) -> Iterator[Check]:
    for key in plan.section("overrides_of_model_config"):
        if key in _SIZES:
            yield Check(
                "the weights were trained with another value",
                f"overrides_of_model_config.{key}",
                "remove it",
            )
    for key, family in _DERIVED.items():
        if plan.get(key) and plan.model_type and family not in plan.model_type:
            yield Check(
                f"the model is a '{plan.model_type}', and would be patched as a {family}",
                key,
                "remove it",
            )
    saved = plan.get("lora_modules_to_save") or []
    whole = any(str(name).endswith(("embed_tokens", "wte", "embed_in")) for name in saved)
    for key in ("tokens", "resize_token_embeddings_to_32x"):
        if plan.get(key) and plan.get("adapter") and not whole:
            yield Check(
                "rows that the embedding gains are random, are not learned, and are not in the "
                "adapter that is saved",
                key,
                "remove it, or add lora_modules_to_save: [embed_tokens, lm_head]",
            )


class Names(NamedTuple):
    """What a model is made of.

    Attributes:
        modules: Names of its modules.
        parameters: Names of its parameters.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]


@cache
def _names(config: str) -> Names | None:
    try:
        model = meta_model(json.loads(config))
    except MultitaskError:
        return None
    return Names(
        tuple(name for name, _ in model.named_modules() if name),
        tuple(name for name, _ in model.named_parameters()),
    )


def names_of(model: ModelInfo) -> Names | None:
    """Names of a model's modules and parameters, from transformers; None where it cannot tell."""
    if model.config is None or not transformers_installed():
        return None
    return _names(json.dumps(dict(model.config), sort_keys=True))


def _adapter(plan: Plan) -> Iterator[Check]:
    rank, alpha = number_of(plan.get("lora_r")), number_of(plan.get("lora_alpha"))
    if not plan.get("adapter") or not rank or rank < 1:
        return
    shape = plan.model.shape if plan.model else None
    least = min((min(one.inputs, one.outputs) for one in shape.linears), default=0) if shape else 0
    if least and rank > least:
        yield Check(
            f"a rank of {shown(rank)} is more than a matrix of {least} rows can have: no fewer "
            "parameters than full fine-tuning",
            "lora_r",
            f"use {min(64, least)} or less, or `method: full`",
        )
    scale = (alpha or 0) / (rank**0.5 if plan.get("peft_use_rslora") else rank)
    if alpha and alpha > 0 and not 0.1 <= scale <= 16:
        hopeless = not 0.005 <= scale <= 128
        yield Check(
            f"the adapter is scaled by {scale:.3g}, as if its learning rate were that much "
            + ("lower" if scale < 1 else "higher"),
            "lora_alpha",
            f"use {shown(2 * rank)}",
            "problem" if hopeless else "warning",
        )
    if plan.get("lora_target_linear") is False and not any(
        plan.get(key) for key in ("lora_target_modules", "lora_target_parameters")
    ):
        yield Check("no layer has an adapter", "lora_target_linear", "remove it")
    start = plan.get("peft_init_lora_weights")
    if start is None or start is True:
        return
    if start is False:
        yield Check(
            "B starts at random, so the model starts as another one",
            "peft_init_lora_weights",
            "remove it",
        )
    elif not any(str(start).startswith(name) for name in _INITS):
        yield Check(
            f"peft has no start {start!r}",
            "peft_init_lora_weights",
            did_you_mean(str(start), _INITS),
        )
    elif str(start).startswith("pissa_niter"):
        yield Check(
            "the fast decomposition is random: after a restart the frozen rest is another one",
            "peft_init_lora_weights",
            "use pissa",
        )
    elif str(start) in ("eva", "corda", "lora_ga"):
        yield Check(
            "it needs passes over data before training, which Axolotl does not make",
            "peft_init_lora_weights",
            "use pissa (`method: pissa`), or remove it",
        )
    elif str(start) in ("pissa", "olora") and plan.fsdp is not None:
        yield Check(
            "its decomposition needs whole weights, and FSDP shards them",
            "peft_init_lora_weights",
            "set `sharding: ddp` in the spec",
        )


def _layers(plan: Plan) -> Iterator[Check]:
    """Names of layers and modules that the model does not have."""
    model = plan.model
    if model is None:
        return
    count = model.shape.layers if model.shape else None
    indices = plan.get("peft_layers_to_transform")
    wrong = [
        i for i in (indices if isinstance(indices, list) else [indices])
        if isinstance(i, int) and count is not None and not 0 <= i < count
    ]  # fmt: skip
    if wrong:
        yield Check(
            f"there is no layer {wrong[0]}: the model has layers 0 to {(count or 1) - 1}",
            "peft_layers_to_transform",
            "leave it out",
        )
    replicated = plan.get("peft_layer_replication")
    ends = [
        e for pair in (replicated if isinstance(replicated, list) else [])
        for e in (pair if isinstance(pair, list) else [])
    ]  # fmt: skip
    if count is not None and any(isinstance(e, int) and not 0 <= e <= count for e in ends):
        yield Check(f"the model has {count} layers", "peft_layer_replication", "stay below it")
    lisa = number_of(plan.get("lisa_n_layers"))
    if lisa and count is not None and lisa > count:
        yield Check(f"the model has {count} layers", "lisa_n_layers", f"use {max(1, count // 4)}")
    wrapped = (plan.fsdp or {}).get("transformer_layer_cls_to_wrap")
    listed = [one.strip() for one in str(wrapped).split(",")] if wrapped else []
    if model.layer_class and listed and model.layer_class not in listed:
        yield Check(
            f"the model has no layer of class {listed[0]}",
            "fsdp_config.transformer_layer_cls_to_wrap",
            f"use {model.layer_class}",
        )
    indices_of_tokens = plan.get("peft_trainable_token_indices")
    tokens = indices_of_tokens if isinstance(indices_of_tokens, list) else []
    vocabulary = model.shape.vocab_size if model.shape else None
    if vocabulary and any(isinstance(t, int) and not 0 <= t < vocabulary for t in tokens):
        yield Check(
            f"the vocabulary has {vocabulary} tokens", "peft_trainable_token_indices", "stay below"
        )
    yield from _named(plan, model)


_WHAT_MEMORY_DEPENDS_ON = (
    "micro_batch_size", "sequence_len", "gradient_checkpointing", "lora_r", "lora_target_modules",
    "optimizer", "sample_packing", "bf16",
)  # fmt: skip


def _memory(plan: Plan) -> Iterator[Check]:
    """Keys of the user's that make a run too large which was planned to fit."""
    before = plan.estimate
    changed = [key for key in _WHAT_MEMORY_DEPENDS_ON if key in plan.own]
    micro, length = number_of(plan.get("micro_batch_size")), number_of(plan.get("sequence_len"))
    if before is None or not changed or not micro or not length:
        return
    if not 1 <= micro <= 1e6 or not 1 <= length <= 1e9:
        return  # out of any range, which is said already
    workload = replace(
        before.workload,
        micro_batch=int(micro),
        sequence_len=int(length),
        packing=bool(plan.get("sample_packing")),
        checkpointing=bool(plan.get("gradient_checkpointing")),
    )
    try:
        training = training_from(before.shape, plan.config)
        planned = estimate(before)
        found = estimate(replace(before, workload=workload, training=training))
    except (MultitaskError, ValueError, TypeError, ArithmeticError):
        return
    if found.fits is False and planned.fits:
        yield Check(
            f"the run does not fit in memory with it: it {found.why_not}",
            changed[0],
            f"remove it (the plan has micro_batch_size {before.workload.micro_batch}), or choose "
            "another `cluster` or `method`",
        )


def _sharding(plan: Plan) -> Iterator[Check]:
    """What the user's own keys take away from the sharding that the plan counts on."""
    shards = plan.estimate is not None and plan.estimate.spread.shards_weights
    if "fsdp_config" in plan.own and plan.fsdp is None and shards and not plan.get("deepspeed"):
        yield Check(
            "the plan and its memory count on sharded weights, and every GPU would hold all",
            "fsdp_config",
            "remove it, and choose `sharding: ddp` in the spec",
        )
    elif plan.fsdp is not None and "fsdp_config" in plan.own:
        # accelerate/utils/dataclasses.py: NO_WRAP where nothing is said
        if str(plan.fsdp.get("auto_wrap_policy")) == "None":
            yield Check(
                "your fsdp_config takes the place of ours, and without a policy the whole model is "
                "gathered at once",
                "fsdp_config.auto_wrap_policy",
                "set TRANSFORMER_BASED_WRAP",
                "warning",
            )
        least, shape = number_of(plan.fsdp.get("min_num_params")), plan.model and plan.model.shape
        if least and shape and least > shape.parameters:
            yield Check(
                f"the model has {shape.parameters:,} parameters, so no part of it is wrapped",
                "fsdp_config.min_num_params",
                "use TRANSFORMER_BASED_WRAP",
            )


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(one) for one in value] if isinstance(value, Sequence | Mapping) else []


def _named(plan: Plan, model: ModelInfo) -> Iterator[Check]:
    """Keys that name modules or parameters; peft and Axolotl leave out what they do not find."""
    targets = plan.get("lora_target_modules")
    ours = model.lora_target_modules
    same = ours is not None and _strings(targets or []) == _strings(ours)
    if targets is not None and not same and targets != "all-linear":
        yield from _targets(model, targets)
    for key in ("lora_modules_to_save", "peft_layers_pattern", "lora_target_parameters"):
        kind = "parameter" if key.endswith("parameters") else "module"
        yield from _missing(model, key, _strings(plan.get(key) or []), kind)
    for key in ("lora_rank_pattern", "lora_alpha_pattern"):
        yield from _missing(model, key, list(plan.section(key)), "module", regex=True)
    free = plan.get("unfrozen_parameters")
    if free and list(_strings(free)) != list(model.unfrozen_parameters):
        plain = [re.sub(r"\[\d*:?\d*\]$", "", one) for one in _strings(free)]
        yield from _missing(model, "unfrozen_parameters", plain, "parameter", regex=True)
    groups = plan.get("lr_groups")
    for place, group in enumerate(groups if isinstance(groups, list) else []):
        if isinstance(group, Mapping):
            key = f"lr_groups[{place}].modules"
            yield from _missing(model, key, _strings(group.get("modules") or []), "parameter")


def _targets(model: ModelInfo, targets: Any) -> Iterator[Check]:
    key = "lora_target_modules"
    if isinstance(targets, str):
        yield from _missing(model, key, [targets], "module", regex=True)
        return
    wanted = _strings(targets)
    known = model.shape.linear_names if model.shape else ()
    unknown = [name for name in wanted if name.rpartition(".")[2] not in known]
    if not wanted:
        yield Check("no layer has an adapter", key, "remove it")
    elif known and unknown:
        yield from _missing(model, key, unknown, "module", known=known)


def _missing(
    model: ModelInfo,
    key: str,
    wanted: Sequence[str],
    kind: str,
    *,
    regex: bool = False,
    known: Sequence[str] = (),
) -> Iterator[Check]:
    if not wanted:
        return
    names = names_of(model)
    if names is None and not known:
        return
    pool = () if names is None else names.modules if kind == "module" else names.parameters
    for one in wanted:
        if any(_fits(one, name, regex=regex) for name in pool):
            continue
        choices = list(known) or sorted({name.rpartition(".")[2] for name in pool})
        choices = [choice for choice in choices if not choice.isdigit()]
        if kind == "parameter":
            choices = sorted({name.split(".")[-2] for name in pool if "." in name})
        yield Check(
            f"the model has no {kind} {one!r}",
            key,
            did_you_mean(one, choices) if len(choices) < 60 else "correct the name",
        )


def _fits(wanted: str, name: str, *, regex: bool) -> bool:
    if not regex:
        return name == wanted or name.endswith(f".{wanted}") or wanted in name.split(".")
    try:
        return re.search(wanted, name) is not None
    except re.error:
        return False


RULES = (
    _attention,
    _packing,
    _kernels,
    _identity,
    _architecture,
    _adapter,
    _layers,
    _memory,
    _sharding,
)
