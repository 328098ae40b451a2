"""The training loss over the columns that are supervised, without logits of all the others.

Prompts are most of a packed sequence, and the output head is among the dearest layers. The loss
needs it only where a supervised token is predicted: ``logits_to_keep`` of a causal language model
takes a one-dimensional tensor of columns (``transformers/models/llama/modeling_llama.py``,
``LlamaForCausalLM.forward``; Liger's replacement of it likewise).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from multitask.estimate.assumptions import LOGITS_HELD

IGNORED = -100

COLUMNS = "answer_columns"
"""The key of a batch that holds its supervised columns, put there by the collator."""

# The trainer's loss of model, inputs and items, by a loss function of outputs, labels and items
# or, without one, by the model's own; with the model's outputs.
PlainLoss = Callable[[Any, Any, Any, Callable[..., Any] | None], tuple[Any, Any]]


def supervised_columns(labels: Any) -> Any:
    """The columns at which a supervised token is predicted in any row.

    Args:
        labels: Shape (rows, length), -100 where nothing is learned.

    Returns:
        Their numbers in rising order; column 0 where nothing is supervised, so that the model
        still has a loss.
    """
    columns = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()
    return columns if len(columns) else columns.new_zeros(1)


@dataclass(frozen=True)
class LossOverAnswers:
    """How a training's loss is computed.

    Attributes:
        enabled: Whether logits of the supervised columns alone are asked for.
    """

    enabled: bool = True

    def compute(
        self, plain: PlainLoss, model: Any, inputs: Any, items: Any, factors: Any = None
    ) -> tuple[Any, Any, Any]:
        """Compute a micro batch's loss; its value and gradient are those of the model's own loss.

        Args:
            plain: The trainer's way.
            model: The model, wrapped for training.
            inputs: The batch; its supervised columns are taken out where it has them.
            items: Supervised tokens of the whole step, where the trainer divides by them.
            factors: Each predicted token's weight, shape (rows, length - 1); None for all 1.

        Returns:
            The loss, the model's outputs, and the loss of each predicted token without its
            weight, shape (rows, length - 1), 0 where there is none; None where they are not
            known, because a fused loss kept no logits.
        """
        columns = inputs.pop(COLUMNS, None)
        labels = inputs["labels"]
        targets = labels[:, 1:]
        if factors is None and not self.enabled:
            return _whole(plain, model, inputs, items, targets)
        base = causal_model(model)
        if columns is None:
            columns = supervised_columns(labels)
        kept = takes_columns(base)
        if factors is None and not kept:
            return _whole(plain, model, inputs, items, targets)
        if factors is None and _is_fused(base) and not _fits(base, labels, columns):
            if _of_liger(base):
                return _fused(plain, model, inputs, items, columns)
            return _whole(plain, model, inputs, items, targets)
        if kept:
            inputs = {**inputs, "logits_to_keep": columns}
        own = _ColumnLoss(base, targets, columns, factors, kept=kept)
        loss, outputs = plain(model, inputs, items, own)
        return loss, outputs, own.losses


def takes_columns(base: Any) -> bool:
    """Whether a causal language model gives logits of chosen columns."""
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters


def causal_model(model: Any) -> Any:
    """The causal language model inside what the trainer trains."""
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):  # parallel, compiled
        model = model.module if hasattr(model, "module") else model._orig_mod
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _is_fused(base: Any) -> bool:
    """Whether a kernel took the place of the model's forward pass, whose loss keeps no logits."""
    return not _origin(base).startswith("transformers")


def _of_liger(base: Any) -> bool:
    """Whether that kernel is Liger's own, which takes shifted labels of chosen columns."""
    return _origin(base).startswith("liger_kernel.")


def _origin(base: Any) -> str:
    return str(type(base).forward.__module__)


def _fits(base: Any, labels: Any, columns: Any) -> bool:
    vocabulary = int(base.config.get_text_config().vocab_size)
    return len(columns) * int(labels.shape[0]) * vocabulary <= LOGITS_HELD


def _whole(
    plain: PlainLoss, model: Any, inputs: Any, items: Any, targets: Any
) -> tuple[Any, Any, Any]:
    """The model's own loss over all columns."""
    loss, outputs = plain(model, inputs, items, None)
    logits = outputs.get("logits")
    losses = None if logits is None else token_losses(logits[:, :-1].detach(), targets)
    return loss, outputs, losses


def _fused(
    plain: PlainLoss, model: Any, inputs: Any, items: Any, columns: Any
) -> tuple[Any, Any, Any]:
    """Liger's fused loss, of the supervised columns (``liger_kernel/transformers/model``).

    It flattens the hidden states that are kept beside ``shift_labels``, which must be theirs.
    """
    shifted = inputs["labels"][:, 1:][:, columns].contiguous()
    chosen = {"logits_to_keep": columns, "shift_labels": shifted}
    loss, outputs = plain(model, {**inputs, **chosen}, items, None)
    return loss, outputs, None


class _ColumnLoss:
    """A loss function for the trainer: the mean over tokens of loss times factor."""

    def __init__(self, base: Any, targets: Any, columns: Any, factors: Any, *, kept: bool) -> None:
        self.losses: Any = None
        self._base, self._targets, self._columns = base, targets, columns
        self._factors, self._kept = factors, kept

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ARG002
        import torch

        targets, columns = self._targets, self._columns
        logits = outputs["logits"]
        if not self._kept:
            logits = logits[:, columns]
        losses = token_losses(logits, targets[:, columns])
        weighed = losses if self._factors is None else losses * self._factors[:, columns]
        count = (targets != IGNORED).sum().clamp(min=1)
        count = count if num_items_in_batch is None else num_items_in_batch
        loss = weighed.sum() / count
        if outputs.get("aux_loss") is not None:  # a mixture of experts' router
            loss = loss + self._base.config.router_aux_loss_coef * outputs["aux_loss"]
        self.losses = torch.zeros(targets.shape, dtype=losses.dtype, device=losses.device)
        self.losses[:, columns] = losses.detach()
        return loss


def token_losses(logits: Any, targets: Any) -> Any:
    """Negative log-likelihood of each target, 0 where there is none; shape of ``targets``."""
    import torch
    from torch.nn import functional

    if logits.requires_grad:
        flat = functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), reduction="none"
        )
        return flat.view_as(targets)
    asked = targets != IGNORED
    losses = torch.zeros(targets.shape, device=logits.device)
    losses[asked] = functional.cross_entropy(
        logits[asked].float(), targets[asked], reduction="none"
    )
    return losses
