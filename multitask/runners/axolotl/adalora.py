"""AdaLoRA, which Axolotl does not have: the adapter, and the moving of ranks while it trains.

Zhang et al. 2023, "Adaptive budget allocation for parameter-efficient fine-tuning".
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from multitask.cluster import adalora_start_rank
from multitask.errors import MultitaskError

NAME = "adalora"

# Shares of the training before ranks move, and after they have.
_BEFORE, _AFTER = 0.1, 0.3
# Until the trainer knows how many steps there are.
_UNKNOWN_STEPS = 1_000_000


def load_adalora(model: Any, cfg: Any) -> tuple[Any, Any]:
    """Wrap a model's linear layers with AdaLoRA.

    Args:
        model: The base model.
        cfg: Axolotl's configuration; ``lora_r`` is the mean rank in the end.

    Returns:
        The wrapped model and its configuration.
    """
    from axolotl.loaders.adapter import find_all_linear_names
    from peft import AdaLoraConfig, TaskType, get_peft_model

    targets = cfg.lora_target_modules or find_all_linear_names(model)
    config = AdaLoraConfig(
        target_r=cfg.lora_r,
        init_r=adalora_start_rank(cfg.lora_r),
        lora_alpha=cfg.lora_alpha,
        lora_dropout=cfg.lora_dropout or 0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        total_step=_UNKNOWN_STEPS,
        task_type=TaskType.CAUSAL_LM,
    )
    return get_peft_model(model, config), config


class AdaLoraCallback(TrainerCallback):
    """Gives the rank allocator its schedule and lets it work after every optimizer step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Set the schedule, now that the number of steps is known.

        Raises:
            MultitaskError: The training is too short for ranks to be moved.
        """
        before, after = round(_BEFORE * state.max_steps), round(_AFTER * state.max_steps)
        if state.max_steps - before - after < 2:
            raise MultitaskError(
                f"{state.max_steps} optimizer steps are too few to move ranks",
                where="method 'adalora'",
                fix="train longer, use a smaller global batch, or use `method: lora`",
            )
        for config in _adapted(kwargs["model"]).peft_config.values():
            config.total_step, config.tinit, config.tfinal = state.max_steps, before, after

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Move ranks by the gradients that are still there."""
        _adapted(kwargs["model"]).update_and_allocate(state.global_step + 1)


def _adapted(model: Any) -> Any:
    """The peft model inside what the trainer trains."""
    while not hasattr(model, "peft_config"):
        model = model.module
    return model.base_model
