"""The rules of `checks` about values that train, and ruin what is trained.

Ranges and what keys need to have an effect are in `value_table`; here are
the rules in which two values meet, or a value and the run's length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from multitask.checks import Check
from multitask.errors import did_you_mean
from multitask.runners.axolotl.plan import Plan, number_of
from multitask.runners.axolotl.value_table import LIMITS, NEEDS, REFUSED, numbers

# How far a learning rate may be from the method's, either way: doubtful, and hopeless.
_DOUBTFUL, _HOPELESS = 10.0, 100.0
# Rates of other optimizers than Adam, as multiples of Adam's: their own papers' and examples'.
_RATES = {"sgd": 1000.0, "muon": 100.0, "adafactor": 10.0, "dion": 10.0, "prodigy": 1000.0}
_WIDE = 4096.0
_SCHEDULE_NEEDS = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}


def shown(value: float) -> str:
    """A number for a message."""
    return f"{value:g}"


def _ranges(plan: Plan) -> Iterator[Check]:
    for key, limits in LIMITS.items():
        value = plan.get(key)
        if value is None:
            continue
        if isinstance(value, bool):
            yield Check(f"{str(value).lower()} is no number", key, f"use {shown(limits.use)}")
            continue
        number = number_of(value)
        if number is None or not math.isfinite(number):
            continue  # the schema, or the rule below, says so
        if not limits.holds(number):
            bound = limits.low if number <= limits.low else limits.high
            exclusive = limits.above if bound == limits.low else limits.below
            near = limits.use if exclusive or not abs(bound) < 1e6 else bound
            side = "more than" if bound == limits.low and limits.above else "at least"
            if bound == limits.high:
                side = "less than" if limits.below else "at most"
            yield Check(
                f"{shown(number)} is out of range, {side} {shown(bound)} is sensible: {limits.why}",
                key,
                f"use {shown(near)}",
            )
        elif not limits.usual[0] <= number <= limits.usual[1] and number != 0:
            low, high = limits.usual
            near = low if number < low else high
            yield Check(
                f"{shown(number)} is far from what is usual: {limits.why}",
                key,
                f"use {shown(near)} or nearer to {shown(limits.use)}",
                "warning",
            )


def _finite(plan: Plan) -> Iterator[Check]:
    for where, number in numbers(plan.config):
        if not math.isfinite(number):
            yield Check(f"{number} is no number to train with", where, "write a finite number")


# What Axolotl cannot do without, and has no default for that would be ours.
_NEEDED = {
    "learning_rate": "without it Axolotl refuses the file",
    "micro_batch_size": "without it there is no batch",
    "gradient_accumulation_steps": "without it the batch is another than the plan's",
    "lora_r": "without it the adapter has no rank",
    "lora_alpha": "without it the adapter has no scale",
    "save_steps": "without it one checkpoint is saved after each pass over the data",
    "multitask": "without it tasks are not evaluated as the spec says",
}


def _unset(plan: Plan) -> Iterator[Check]:
    for key, what in _NEEDED.items():
        adapters = key.startswith("lora") and not plan.get("adapter")
        replaced = {"save_steps": "saves_per_epoch", "gradient_accumulation_steps": "batch_size"}
        other = replaced.get(key)
        instead = bool(other and plan.get(other))
        if key in plan.own and plan.get(key) is None and not adapters and not instead:
            yield Check(what, key, "remove the key, so that ours counts")
    if plan.get("eot_tokens") == []:
        yield Check("no token ends an answer then", "eot_tokens", "remove it")
    for name, token in plan.section("special_tokens").items():
        if token == "":
            yield Check("an empty text is no token", f"special_tokens.{name}", "remove it")
    for key in ("save_steps", "eval_steps"):
        value = number_of(plan.get(key))
        if value is not None and math.isfinite(value) and value > 1 and value != int(value):
            # transformers/training_args.py raises
            yield Check("above 1 it is a number of steps", key, f"use {round(value)}")


def _effects(plan: Plan) -> Iterator[Check]:
    for need in NEEDS:
        for key in need.keys:
            if plan.get(key) not in (None, False) and not need.holds(plan):
                yield Check(f"without effect: {need.what}", key, need.fix, "warning")


def _refused(plan: Plan) -> Iterator[Check]:
    for refusal in REFUSED:
        for key in refusal.keys:
            if plan.get(key) not in (None, False, [], {}):
                yield Check(refusal.what, key, refusal.fix)


def _learning_rate(plan: Plan) -> Iterator[Check]:
    number = number_of(plan.get("learning_rate"))
    if number is None or not math.isfinite(number):
        return
    adapter = bool(plan.get("adapter"))
    usual = plan.method.learning_rate if plan.method else (2e-4 if adapter else 1e-5)
    name = str(plan.get("optimizer") or "")
    usual *= next((factor for word, factor in _RATES.items() if word in name), 1.0)
    # Small models bear more: the best rate falls with the width (Yang et al. 2022, muP).
    shape = plan.model.shape if plan.model else None
    high = usual * (max(1.0, _WIDE / shape.hidden_size) if shape else 1.0)
    near = f"use {shown(usual)}, the method's own"
    if number <= 0:
        yield Check(f"at {shown(number)} nothing is learned", "learning_rate", near)
    elif number > high * _HOPELESS:
        yield Check(
            f"{shown(number)} is {number / usual:,.0f} times the method's rate, and training "
            "diverges",
            "learning_rate",
            near,
            "problem" if shape else "warning",  # of an unknown width, it may be a small model's
        )
    elif number < usual / _HOPELESS:
        yield Check(
            f"{shown(number)} is a {usual / number:,.0f}th of the method's rate, and hardly "
            "anything is learned",
            "learning_rate",
            near,
        )
    elif not usual / _DOUBTFUL / 2 <= number <= high * _DOUBTFUL:
        more = f"{number / usual:.2g} times the method's rate ({shown(usual)})"
        yield Check(f"{shown(number)} is {more}", "learning_rate", near, "warning")
    groups = plan.get("lr_groups")
    for place, group in enumerate(groups if isinstance(groups, list) else []):
        rate = number_of(group.get("lr")) if isinstance(group, Mapping) else None
        if rate is not None and not 0 < rate <= high * _HOPELESS:
            yield Check(f"{shown(rate)} is no learning rate", f"lr_groups[{place}].lr", near)


def _schedule(plan: Plan) -> Iterator[Check]:
    name = str(plan.get("lr_scheduler") or "cosine")
    given = plan.section("lr_scheduler_kwargs")
    wanted = _SCHEDULE_NEEDS.get(name, ())
    if wanted and not any(key in given for key in wanted):
        # transformers/optimization.py raises when the trainer is made, after the model's loading
        yield Check(
            f"'{name}' needs {' or '.join(wanted)}",
            "lr_scheduler",
            f"set lr_scheduler_kwargs: {{{wanted[-1]}: {_example(wanted[-1], plan)}}}",
        )
    if name == "reduce_lr_on_plateau":
        yield Check(
            "it follows a metric of Axolotl's evaluation, which a run of tasks does not have",
            "lr_scheduler",
            "use cosine",
        )
    if "schedule_free" in str(plan.get("optimizer")) and not name.startswith("constant"):
        yield Check(
            "a schedule-free optimizer averages weights in place of a decay",
            "lr_scheduler",
            "use constant_with_warmup",
            "warning",
        )
    peak, least = number_of(plan.get("learning_rate")), number_of(given.get("min_lr"))
    if peak and least is not None and not 0 <= least < peak:
        yield Check(
            f"the rate would not fall: {shown(least)} is no less than the peak, {shown(peak)}",
            "lr_scheduler_kwargs.min_lr",
            f"use {shown(peak / 10)}",
        )
    for key in ("min_lr_rate", "min_lr_ratio"):
        share = number_of(given.get(key))
        if share is not None and not 0 <= share < 1:
            yield Check("it is a share of the peak", f"lr_scheduler_kwargs.{key}", "use 0.1")
    for key in ("num_cycles", "power"):
        value = number_of(given.get(key))
        if value is not None and value <= 0:
            yield Check("the rate would not fall", f"lr_scheduler_kwargs.{key}", "use 1")


_SCHEDULE_KEYS = frozenset(
    (
        "num_cycles", "power", "lr_end", "timescale", "num_decay_steps", "num_stable_steps",
        "num_warmup_steps", "min_lr", "min_lr_rate", "min_lr_ratio", "warmup_type", "decay_type",
        "warmup_lr", "warmup_lr_rate", "pct_start", "anneal_strategy", "div_factor",
        "final_div_factor", "last_epoch",
    )
)  # fmt: skip


def _arguments(plan: Plan) -> Iterator[Check]:
    """Arguments that go past the keys that are checked."""
    for key in plan.section("lr_scheduler_kwargs"):
        if key not in _SCHEDULE_KEYS:
            yield Check(
                f"no schedule of transformers takes '{key}'",
                f"lr_scheduler_kwargs.{key}",
                did_you_mean(str(key), _SCHEDULE_KEYS),
            )
    given = plan.get("optim_args")
    words = given if isinstance(given, Mapping) else str(given or "").replace("=", " ").split()
    for word, key in {
        "lr": "learning_rate", "betas": "adam_beta1 and adam_beta2", "eps": "adam_epsilon",
        "weight_decay": "weight_decay",
    }.items():  # fmt: skip
        if word in words:
            yield Check(
                f"'{word}' goes past what is checked, and past the schedule",
                "optim_args",
                f"use {key}",
            )
    accelerator = plan.section("accelerator_config")
    if accelerator.get("split_batches"):
        yield Check(
            "the micro batch is divided among the GPUs: steps are smaller than the plan says",
            "accelerator_config.split_batches",
            "remove it",
        )
    kwargs = accelerator.get("gradient_accumulation_kwargs")
    if isinstance(kwargs, Mapping) and "num_steps" in kwargs:
        yield Check(
            "transformers refuses it beside gradient_accumulation_steps",
            "accelerator_config.gradient_accumulation_kwargs.num_steps",
            "remove it",
        )
    reentrant = plan.section("gradient_checkpointing_kwargs").get("use_reentrant")
    if reentrant and plan.get("gradient_checkpointing") and plan.world_size > 1:
        yield Check(
            "reentrant checkpoints do not work with FSDP2, nor with DDP and frozen weights",
            "gradient_checkpointing_kwargs.use_reentrant",
            "use false",
            "warning",
        )


def _example(key: str, plan: Plan) -> str:
    return str(max(1, (plan.steps or 100) // 5)) if "steps" in key else "0.1"


def _intervals(plan: Plan) -> Iterator[Check]:
    """What comes every so many steps, in a run that has fewer."""
    steps = plan.steps
    if steps is None:
        return
    run = f"the run has {steps} optimizer steps"
    warmup = number_of(plan.get("warmup_steps"))
    if warmup is not None and warmup >= steps:
        yield Check(
            f"{run}, so the learning rate never reaches its peak",
            "warmup_steps",
            f"use {max(0, steps // 30)}, or warmup_ratio: 0.03",
        )
    elif warmup is not None and warmup > steps / 2:
        yield Check(
            f"{run}, most of them below the peak learning rate",
            "warmup_steps",
            f"use {steps // 30}",
            "warning",
        )
    never = {
        "save_steps": "so none is saved before the end, and no task is evaluated before it",
        "eval_steps": "so nothing is evaluated",
        "logging_steps": "so no loss is ever logged",
        "lisa_step_interval": "so the same layers learn all the time",
        "profiler_steps_start": "so nothing is profiled",
        "jagged_restart_steps": "so there is no restart",
    }
    for key, then in never.items():
        value = number_of(plan.get(key))
        if value is not None and value > max(1, steps):
            yield Check(
                f"{shown(value)} never comes: {run}, {then}",
                key,
                f"use {max(1, steps // 10)}" + (", or 0.1" if key.endswith("e_steps") else ""),
                "warning",
            )
    epochs = number_of(plan.get("num_epochs"))
    most = number_of(plan.get("max_steps"))
    if epochs and most and plan.sequences is not None and not plan.on_cpu:
        whole = Plan(
            {**plan.config, "max_steps": None}, plan.on_cpu, plan.world_size,
            sequences=plan.sequences,
        ).steps  # fmt: skip
        if whole is not None and most < whole / max(1.0, epochs):
            yield Check(
                f"one pass over the mixture has {whole / max(1.0, epochs):.0f} steps, so some rows "
                "are never seen",
                "max_steps",
                f"use {whole}, or `epochs` in the spec",
                "warning",
            )
    if epochs is not None and 0 < epochs < 1 and not most:
        yield Check(
            f"{1 - epochs:.0%} of the rows are never seen",
            "num_epochs",
            "use 1 or more, or `mixture: {size: N}`",
            "warning",
        )


def _lengths(plan: Plan) -> Iterator[Check]:
    limit = plan.model.shape.max_positions if plan.model and plan.model.shape else None
    own = plan.section("overrides_of_model_config")
    stretched = any("rope" in str(key) or key == "max_position_embeddings" for key in own)
    for key in ("sequence_len", "eval_sequence_len"):
        value = number_of(plan.get(key))
        if value is None:
            continue
        if limit is not None and value > limit and not stretched:
            yield Check(
                f"the model was trained with {limit:,} positions at most, and rows beyond are read "
                "as noise",
                key,
                f"use {limit}, or set overrides_of_model_config: {{rope_parameters: ...}}",
            )
        # Before the data is read the longest row is not known; afterwards Axolotl would drop it.
        if key == "sequence_len" and plan.tokens_per_row and value < plan.tokens_per_row:
            yield Check(
                f"a row has {plan.tokens_per_row:.0f} tokens on average, so most are dropped",
                key,
                f"use {plan.longest or round(3 * plan.tokens_per_row)} or more",
            )
        elif plan.longest is not None and value < plan.longest and plan.rows:
            yield Check(
                f"the longest row has {plan.longest} tokens, and Axolotl drops what is longer than "
                f"{shown(value)}",
                key,
                f"use {plan.longest} or more, or accept the loss",
                "warning",
            )
    shortest = number_of(plan.get("min_sample_len"))
    longest = number_of(plan.get("sequence_len"))
    if shortest and longest and shortest >= longest:
        yield Check("every row is dropped", "min_sample_len", "remove it")
    if plan.get("excess_length_strategy") == "truncate":
        yield Check(
            "a row that is too long loses its end, and the answer is there",
            "excess_length_strategy",
            "use drop, and a longer sequence_len",
        )


def _batches(plan: Plan) -> Iterator[Check]:
    """Batches that the rows do not fill, and padding that nobody reads."""
    micro = number_of(plan.get("micro_batch_size")) or 1
    batch = micro * plan.world_size
    dropped = plan.get("dataloader_drop_last") or (
        plan.get("sample_packing") and plan.get("eval_sample_packing") is False
    )
    if plan.sequences is not None and 0 < plan.sequences < batch < 1e9:
        # core/builders/causal.py: packed, the last batch of a pass is dropped
        yield Check(
            f"a pass over the mixture is {plan.sequences:.0f} sequences, fewer than the "
            f"{batch:.0f} of one pass of all GPUs"
            + (", so there is no whole batch and no step" if dropped else ""),
            "micro_batch_size",
            f"use {max(1, int(plan.sequences / plan.world_size))}, or fewer GPUs"
            + (", or a shorter sequence_len" if plan.get("sample_packing") else ""),
            "problem" if dropped and plan.sequences < batch / 2 else "warning",
        )
    length = number_of(plan.get("sequence_len"))
    padded = plan.get("pad_to_sequence_len") and not plan.get("sample_packing")
    if padded and length and plan.tokens_per_row and length > 3 * plan.tokens_per_row:
        yield Check(
            f"rows of {plan.tokens_per_row:.0f} tokens are padded to {length:.0f}: most of it is "
            "padding",
            "pad_to_sequence_len",
            "set it to false, or pack rows",
            "warning",
        )
    saves, steps = number_of(plan.get("save_steps")), plan.steps
    if saves and steps and saves > 0 and not plan.on_cpu:
        count = 1 / saves if saves < 1 else steps / saves
        if count > 200:
            yield Check(
                f"{count:.0f} checkpoints, each with an evaluation of every task, take longer than "
                "the training",
                "save_steps",
                f"use {max(1, steps // 20)}, or 0.05",
                "warning",
            )


def _precision(plan: Plan) -> Iterator[Check]:
    bf16 = [key for key in ("bf16", "bfloat16") if plan.get(key) not in (None, False)]
    fp16 = [key for key in ("fp16", "float16") if plan.get(key) not in (None, False)]
    if bf16 and fp16:
        yield Check(f"{bf16[0]} is on as well", fp16[0], "remove it")
    elif fp16 and not plan.on_cpu:
        yield Check(
            "float16 overflows where these models' bfloat16 does not",
            fp16[0],
            "set bf16: true",
            "warning",
        )
    half = bool(bf16 or fp16)
    if not half and not plan.on_cpu and "bf16" in plan.own and not plan.flash:
        yield Check(
            "all is computed in float32: twice the memory, and several times slower",
            "bf16",
            "remove it",
            "warning",
        )
    if plan.get("float32") and half:
        yield Check("half precision is on as well", "float32", "keep one of them")
    if plan.flash and not half and not plan.on_cpu and "bf16" in plan.config:
        yield Check(
            "flash attention computes in half precision alone", "bf16", "set bf16: true, or sdpa"
        )
    if plan.on_cpu and fp16:
        yield Check("float16 on a CPU has no loss scaling, and underflows", fp16[0], "remove it")
    if plan.get("load_in_4bit") and plan.get("load_in_8bit"):
        yield Check("weights cannot be in 4 and in 8 bits", "load_in_8bit", "remove one")
    bits = [key for key in ("load_in_4bit", "load_in_8bit") if plan.get(key)]
    if plan.get("model_quantization_config") and bits:
        yield Check("weights are quantised twice", bits[0], "remove one")
    if plan.get("fp8") and not plan.hopper and plan.compute_capability is not None:
        yield Check("FP8 needs sm_90 (H100)", "fp8", "remove it")


def _loss(plan: Plan) -> Iterator[Check]:
    own = [
        key
        for key in (
            "cut_cross_entropy", "liger_fused_linear_cross_entropy", "liger_cross_entropy",
            "chunked_cross_entropy", "use_eaft",
        )
        if plan.get(key)
    ]  # fmt: skip
    if len(own) > 1:
        # schemas/validation.py, check_cross_entropy_conflicts
        yield Check(f"the loss is replaced by {own[1]} as well", own[0], "keep one of them")
    if plan.get("cut_cross_entropy"):
        yield Check(
            "it computes no logits, which the evaluation of tasks reads",
            "cut_cross_entropy",
            "use liger_fused_linear_cross_entropy",
        )
    if plan.get("liger_use_token_scaling"):
        yield Check(
            "a token's loss is multiplied by its probability: what the model does not know it does "
            "not learn",
            "liger_use_token_scaling",
            "remove it",
            "warning",
        )
    if plan.get("train_on_inputs"):
        yield Check(
            "prompts are learned as well, which are many times longer than answers",
            "train_on_inputs",
            "remove it",
            "warning",
        )
    balance = plan.section("multitask").get("balance")
    weights = balance.get("loss_weights") if isinstance(balance, Mapping) else None
    values = [number_of(w) for w in weights.values()] if isinstance(weights, Mapping) else []
    found = [value for value in values if value and math.isfinite(value)]
    # A task that is not named weighs 1.
    ratio = max([*found, 1.0]) / min([*found, 1.0]) if found else 1.0
    if ratio > 100:
        yield Check(
            f"one task weighs {ratio:,.0f} times as much as another, which is then not learned",
            "multitask.balance.loss_weights",
            "use factors between 0.1 and 10",
            "problem" if ratio > 10_000 else "warning",
        )


RULES = (
    _unset,
    _arguments,
    _finite,
    _ranges,
    _refused,
    _learning_rate,
    _schedule,
    _intervals,
    _lengths,
    _batches,
    _precision,
    _loss,
    _effects,
)
