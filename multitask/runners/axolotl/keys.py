"""The rules of `checks` about rows, evaluation, balance and packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from multitask.checks import Check
from multitask.errors import MultitaskError
from multitask.runners.axolotl.plan import Plan, number_of
from multitask.runners.axolotl.values import shown
from multitask.scoring.chat import is_dated
from multitask.scoring.encode import turn_end

# Optimizers that another package brings (transformers/trainer_optimizer.py, Axolotl's builder).
_PACKAGES = {
    "galore": "galore-torch", "q_galore": "q-galore-torch", "lomo": "lomo-optim",
    "adalomo": "lomo-optim", "grokadamw": "grokadamw", "apollo": "apollo-torch",
    "flash_": "flashoptim", "anyprecision": "torchdistx", "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu_fused": "torch_npu",
}  # fmt: skip

_OURS: dict[str, Any] = {
    "ds_type": "json",
    "split": "train",
    "type": "chat_template",
    "field_messages": "messages",
}


def _rows(plan: Plan) -> Iterator[Check]:
    """The entries of ``datasets`` that read the run's own rows."""
    for key in ("datasets", "test_datasets"):
        for place, dataset in enumerate(plan.datasets(key)):
            if str(dataset.get("path", "")).startswith("data/"):
                yield from _row_keys(f"{key}[{place}]", dataset)


def _row_keys(where: str, dataset: Mapping[str, Any]) -> Iterator[Check]:
    for key, ours in _OURS.items():
        if dataset.get(key, ours) != ours:
            yield Check(
                f"the run's rows are read with {key}: {ours}", f"{where}.{key}", f"use {ours}"
            )
    roles = dataset.get("roles_to_train")
    if isinstance(roles, list) and "assistant" not in roles and "gpt" not in roles:
        yield Check(
            "answers are the assistant's, and would not be learned",
            f"{where}.roles_to_train",
            "use [assistant]",
        )
    elif isinstance(roles, list) and len(set(roles)) > 1:
        yield Check(
            "prompts are learned as well", f"{where}.roles_to_train", "use [assistant]", "warning"
        )
    for key in ("train_on_eos", "train_on_eot"):
        if dataset.get(key) == "none":
            yield Check(
                "the end of an answer is not learned, and scoring counts it",
                f"{where}.{key}",
                "use turn",
            )
    for key in ("shards", "shards_idx", "preprocess_shards"):
        if dataset.get(key) not in (None, 1):
            yield Check("only a part of the rows is read", f"{where}.{key}", "remove it")
    for key in (
        "chat_template", "chat_template_jinja", "message_property_mappings", "message_field_role",
        "message_field_content", "message_field_training", "message_field_training_detail",
        "input_transform", "input_format", "roles", "drop_system_message", "split_thinking",
        "template_thinking_key", "field_thinking",
    ):  # fmt: skip
        if dataset.get(key) not in (None, False):
            yield Check(
                "rows would be rendered otherwise than scoring renders them",
                f"{where}.{key}",
                "remove it; `templates` in the spec puts tasks into words",
            )


def _balance(plan: Plan) -> Iterator[Check]:
    """The section of multitask's own plugin."""
    section = plan.section("multitask")
    balance, evaluation = section.get("balance"), section.get("evaluation")
    if isinstance(balance, Mapping) and balance.get("schedule") == "lagging":
        for key, most in {"strength": 10.0, "limit": 100.0}.items():
            value = number_of(balance.get(key))
            if value is not None and value > most:
                yield Check(
                    "one lagging task takes all the weight, and the others are forgotten",
                    f"multitask.balance.{key}",
                    f"use {shown(most)} or less",
                    "warning",
                )
    if not isinstance(evaluation, Mapping):
        return
    stop = evaluation.get("early_stopping")
    least = number_of(stop.get("min_delta")) if isinstance(stop, Mapping) else None
    if least is not None and least >= 0.5:
        yield Check(
            "scores are shares from 0 to 1, so no checkpoint ever counts as better",
            "multitask.evaluation.early_stopping.min_delta",
            "use 0.005",
        )


def _evaluation(plan: Plan) -> Iterator[Check]:
    if plan.get("load_best_model_at_end") and not plan.get("metric_for_best_model"):
        yield Check(
            "without effect: checkpoints are judged by each task's own score",
            "load_best_model_at_end",
            "remove it; the best checkpoint is kept, see `evaluation: {metric, best}` in the spec",
            "warning",
        )
    keys = ("eval_steps", "evals_per_epoch", "eval_strategy", "evaluation_strategy")
    for key in keys:
        if plan.get(key) in (None, False):
            continue
        if str(plan.get(key)) == "no":
            continue
        yield Check(
            "each task is evaluated at every save already; this adds evaluations, and one at every "
            "start",
            key,
            "remove it; `checkpoint: {save_steps: N}` in the spec sets how often",
            "warning",
        )
    strategy = str(plan.get("save_strategy") or "steps")
    if strategy not in ("steps", "no", "False") and plan.get("save_steps"):
        # schemas/validation.py, check_saves
        yield Check(
            f"'{strategy}' contradicts save_steps, and Axolotl refuses both",
            "save_strategy",
            "remove it; `checkpoint: {save_steps: N}` in the spec sets how often",
        )
    if plan.get("eval_sample_packing"):
        yield Check(
            "packed, the last rows of a task are left out", "eval_sample_packing", "use false"
        )
    if plan.get("save_safetensors") is False:
        yield Check("evaluation reads safetensors", "save_safetensors", "remove it")
    stop = plan.section("multitask").get("evaluation")
    stop = stop.get("early_stopping") if isinstance(stop, Mapping) else None
    patience = number_of(stop.get("patience")) if isinstance(stop, Mapping) else None
    every, steps = number_of(plan.get("save_steps")), plan.steps
    if patience and every and steps and every > 0:
        saves = 1 / every if every < 1 else steps / every
        if patience >= saves:
            yield Check(
                f"the run is evaluated some {saves:.0f} times, so it never comes",
                "multitask.evaluation.early_stopping.patience",
                f"use {max(1, int(saves) // 3)}",
                "warning",
            )


def _tools(plan: Plan) -> Iterator[Check]:
    name = str(plan.get("optimizer") or "")
    package = next((p for word, p in _PACKAGES.items() if word in name), None)
    if package is not None:
        yield Check(
            f"it is in the package {package}, which neither Axolotl nor the image brings",
            "optimizer",
            f"pip install {package} on every node, or use adamw_torch_fused",
            "warning",
        )
    if any(word in name for word in ("galore", "apollo")) and not plan.get("optim_target_modules"):
        yield Check(
            "it needs the layers that it projects", "optim_target_modules", "use all_linear"
        )
    legacy = [
        key for key in ("flash_attention", "eager_attention", "sdp_attention", "flex_attention",
                        "xformers_attention", "sage_attention") if plan.get(key)
    ]  # fmt: skip
    if legacy and plan.get("attn_implementation"):
        yield Check(
            f"attn_implementation: {plan.get('attn_implementation')} is set as well",
            legacy[0],
            "set attn_implementation alone",
        )
    for key in ("deepspeed", "lora_model_dir"):
        value = plan.get(key)
        local = isinstance(value, str) and value.startswith(("/", "~", "."))
        if key in plan.own and local and not Path(value).expanduser().exists():
            yield Check("there is nothing at this path", key, "correct it, or remove it")
    if plan.get("peft_autocast_adapter_dtype") is False and plan.get("bf16"):
        yield Check(
            "the adapter learns in bfloat16, which rounds small steps away",
            "peft_autocast_adapter_dtype",
            "remove it",
            "warning",
        )
    kept = number_of(plan.get("save_total_limit"))
    if kept is not None and kept > 50:
        yield Check(
            f"{kept:.0f} checkpoints stay on disk, each with its optimizer", "save_total_limit",
            "use 3 (the best is kept besides)", "warning",
        )  # fmt: skip
    if plan.get("tokenizer_use_fast") is False:
        yield Check("scoring needs a fast tokenizer", "tokenizer_use_fast", "remove it")
    kwargs = plan.section("overrides_of_model_kwargs")
    for key in ("attn_implementation", "torch_dtype", "dtype", "device_map", "quantization_config"):
        if key in kwargs:
            yield Check(
                "it goes past all checks of it", f"overrides_of_model_kwargs.{key}",
                "remove it; use Axolotl's own key",
            )  # fmt: skip


RULES = (
    _rows,
    _balance,
    _evaluation,
    _tools,
)


def check_template(config: Mapping[str, Any], tokenizer: Any, root: Path) -> Iterator[Check]:
    """Check how a configuration renders a conversation.

    Args:
        config: The content of axolotl.yaml.
        tokenizer: The model's own; changed as Axolotl would change it.
        root: The run directory, which a template's file may lie in.
    """
    template = template_text(config, tokenizer, root)
    if template is None:
        return
    tokenizer.chat_template = template
    special = config.get("special_tokens")
    vocabulary = tokenizer.get_vocab()
    for name, token in (special if isinstance(special, Mapping) else {}).items():
        if token not in vocabulary:
            yield Check(
                f"{token!r} is not in the vocabulary: the embedding would gain a row at random"
                + (", which an adapter neither trains nor saves" if config.get("adapter") else ""),
                f"special_tokens.{name}",
                f"use one of the tokenizer's own, such as {tokenizer.eos_token}",
            )
            return
        setattr(tokenizer, name, token)
    if is_dated(tokenizer):
        yield Check(
            "the chat template shows the date of the day: training, evaluation and a restart after "
            "midnight would use other prompts",
            "chat_template_jinja" if config.get("chat_template_jinja") else "chat_template",
            "write a fixed date into a copy of the template, and name it as chat_template_jinja",
        )
    try:
        end = turn_end(tokenizer)
    except MultitaskError as error:
        yield Check(str(error), "chat_template", "use another template")
        return
    if end is None:
        yield Check(
            "the chat template has no token that ends an answer, so the model never learns to stop",
            "chat_template",
            "set `templates: {format: alpaca}` in the spec, or use a template that writes "
            f"{tokenizer.eos_token or 'an eos token'} after an answer",
        )
        return
    given = config.get("eot_tokens")
    trained = given if isinstance(given, list) else [tokenizer.eos_token]
    if end not in trained:
        # axolotl/prompt_strategies/chat_template.py, _validate_eot_and_eos_tokens: a warning there
        yield Check(
            f"an answer ends with {end}, which Axolotl would not train: it trains "
            f"{', '.join(map(str, trained)) or 'none'}, and scoring counts {end}",
            "eot_tokens",
            f"set eot_tokens: [{end!r}]",
        )


def template_text(config: Mapping[str, Any], tokenizer: Any, root: Path) -> str | None:
    """The chat template that a configuration trains with; None where it cannot be known here."""
    name = str(config.get("chat_template") or "tokenizer_default")
    own = config.get("chat_template_jinja")
    if own:
        file = root / str(own)
        try:
            return file.read_text(encoding="utf-8") if file.is_file() else str(own)
        except OSError:
            return str(own)
    if name.startswith("tokenizer_default") and isinstance(tokenizer.chat_template, str):
        return str(tokenizer.chat_template)
    name = name.removeprefix("tokenizer_default_fallback_")
    from importlib.util import find_spec

    found = find_spec("axolotl")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "utils" / "chat_templates" / "templates"
    shipped = folder / f"{name}.jinja"
    return shipped.read_text(encoding="utf-8") if shipped.is_file() else None
