"""The loss of a decoder over the columns that are supervised, without logits of all the others.

Prompts are most of a packed sequence, and the output head is among the dearest layers. The loss
needs it only where a supervised token is predicted: ``logits_to_keep`` of a causal language model
takes a one-dimensional tensor of columns (``transformers/models/llama/modeling_llama.py``,
``LlamaForCausalLM.forward``; Liger's replacement of it likewise).

Flash attention needs the lengths of packed rows. Left to itself, every layer finds them anew from
the position ids, and each time the host waits for the GPU to tell how long the longest is
(``transformers/modeling_flash_attention_utils.py``, ``_flash_attention_forward``: where all four
of ``cu_seq_lens_q``, ``cu_seq_lens_k``, ``max_length_q`` and ``max_length_k`` are given, it does
neither). Both are computed once, where a batch is put together, in a loader's process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from multitask.callbacks.rows import IGNORED
from multitask.estimate.assumptions import LOGITS_HELD

COLUMNS = "answer_columns"
"""The key of a batch that holds its supervised columns, put there by the collator."""

# The trainer's loss of model, inputs and items, by a loss function of outputs, labels and items
# or, without one, by the model's own; with the model's outputs.
PlainLoss = Callable[[Any, Any, Any, Callable[..., Any] | None], tuple[Any, Any]]


def supervised_columns(labels: Any) -> Any:
    """The columns at which a supervised token is predicted in any row, rising.

    Column 0 where nothing is supervised, so that the model still has a loss.
    """
    columns = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()
    return columns if len(columns) else columns.new_zeros(1)


def answer_loss(
    plain: PlainLoss,
    model: Any,
    inputs: Any,
    items: Any,
    factors: Any = None,
    *,
    enabled: bool = True,
) -> tuple[Any, Any, Any]:
    """Compute a micro batch's loss; its value and gradient are those of the model's own loss.

    Args:
        plain: The trainer's way.
        model: The model, wrapped for training.
        inputs: The batch; its supervised columns are taken out where it has them.
        items: Supervised tokens of the whole step, where the trainer divides by them.
        factors: Each predicted token's weight, shape (rows, length - 1); None for all 1.
        enabled: Whether logits of the supervised columns alone are asked for.

    Returns:
        The loss, the model's outputs, and the loss of each predicted token without its weight,
        shape (rows, length - 1), 0 where there is none; None where they are not known, because a
        fused loss kept no logits.
    """
    columns = inputs.pop(COLUMNS, None)
    labels = inputs["labels"]
    targets = labels[:, 1:]
    base = causal_model(model)
    kept = takes_columns(base)
    if columns is None:
        columns = supervised_columns(labels)
    if factors is None:
        # A kernel in the place of the forward pass, whose loss keeps no logits.
        origin = str(type(base).forward.__module__)
        vocabulary = int(base.config.get_text_config().vocab_size)
        too_many = len(columns) * int(labels.shape[0]) * vocabulary > LOGITS_HELD
        fused = not origin.startswith("transformers") and too_many
        if enabled and kept and fused and origin.startswith("liger_kernel."):
            # It flattens the hidden states that are kept beside `shift_labels`, theirs
            # (liger_kernel/transformers/model).
            shifted = targets[:, columns].contiguous()
            chosen = {"logits_to_keep": columns, "shift_labels": shifted}
            return *plain(model, {**inputs, **chosen}, items, None), None
        if fused or not (enabled and kept):
            loss, outputs = plain(model, inputs, items, None)
            logits = outputs.get("logits")
            known = None if logits is None else token_losses(logits[:, :-1].detach(), targets)
            return loss, outputs, known
    losses: list[Any] = []

    def mean(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:  # noqa: ARG001
        logits = outputs["logits"] if kept else outputs["logits"][:, columns]
        losses.append(token_losses(logits, targets[:, columns]))
        weighed = losses[0] if factors is None else losses[0] * factors[:, columns]
        count = (targets != IGNORED).sum().clamp(min=1)
        loss = weighed.sum() / (count if num_items_in_batch is None else num_items_in_batch)
        if outputs.get("aux_loss") is not None:  # a mixture of experts' router
            loss = loss + base.config.router_aux_loss_coef * outputs["aux_loss"]
        return loss

    if kept:
        inputs = {**inputs, "logits_to_keep": columns}
    loss, outputs = plain(model, inputs, items, mean)
    known = losses[0].new_zeros(targets.shape)
    known[:, columns] = losses[0].detach()
    return loss, outputs, known


def takes_columns(base: Any) -> bool:
    """Whether a causal language model gives logits of chosen columns."""
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters


def causal_model(model: Any) -> Any:
    """The causal language model inside what the trainer trains."""
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):  # parallel, compiled
        model = model.module if hasattr(model, "module") else model._orig_mod
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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


class BatchMetadata:
    """A collator that adds supervised columns and packed lengths to another one's batches."""

    def __init__(self, inner: Any, *, packed_lengths: bool, columns: bool) -> None:
        """Add to what ``inner`` makes."""
        self.inner, self.packed_lengths, self.columns = inner, packed_lengths, columns

    def __call__(self, features: Any, **kwargs: Any) -> Any:
        """Make a batch of tokenised rows."""
        batch = self.inner(features, **kwargs)
        if self.columns:
            batch[COLUMNS] = supervised_columns(batch["labels"])
        if self.packed_lengths and "position_ids" in batch and "attention_mask" not in batch:
            batch |= flash_lengths(batch["position_ids"])
        return batch


def flash_lengths(position_ids: Any) -> dict[str, Any]:
    """The lengths of packed rows, as a model hands them on to flash attention.

    Args:
        position_ids: Shape (1, length); 0 where a row begins.

    Returns:
        ``cu_seq_lens_q`` and ``cu_seq_lens_k``, where each row begins and the last one ends, and
        ``max_length_q`` and ``max_length_k``, the longest row's length.
    """
    from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

    ends, longest = prepare_fa_kwargs_from_position_ids(position_ids)
    return {
        "cu_seq_lens_q": ends[0],
        "cu_seq_lens_k": ends[1],
        "max_length_q": int(longest[0]),
        "max_length_k": int(longest[1]),
    }


def reads_lengths(base: Any) -> bool:
    """Whether a causal language model's attention is flash attention and is handed keywords.

    Models of transformers that hand keywords on take ``**kwargs`` all the way down; any other
    module on the way to the first attention would raise a TypeError.
    """
    from transformers.utils.generic import is_flash_attention_requested

    if not is_flash_attention_requested(base.config.get_text_config()):
        return False
    path = list(_path_to_attention(base))
    return len(path) > 1 and all(_takes_any(module) for module in path)


def _path_to_attention(base: Any) -> Iterator[Any]:
    """The modules from a model down to its first attention, containers left out."""
    found = next((n for n, m in base.named_modules() if type(m).__name__.endswith("Attention")), "")
    names = found.split(".") if found else []
    for depth in range(len(names) + 1):
        module = base.get_submodule(".".join(names[:depth]))
        if type(module).__name__ not in ("ModuleList", "ModuleDict"):
            yield module


def _takes_any(module: Any) -> bool:
    parameters = inspect.signature(type(module).forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
