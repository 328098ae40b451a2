"""Greedy generation for tasks without a closed label set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multitask.scoring.encode import Tokens
from multitask.scoring.model import LoadedModel

_BATCH = 16


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int = 128,
    progress: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Continue every prompt with the most probable token until the turn ends.

    Args:
        loaded: The model.
        prompts: Prompts in tokens.
        max_new_tokens: Longest answer.
        progress: Told how many prompts are done.

    Returns:
        The answers as text, without special tokens.
    """
    import torch

    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        width = max(len(prompts[i]) for i in batch)
        pad = loaded.pad_token
        ids = [[pad] * (width - len(prompts[i])) + list(prompts[i]) for i in batch]
        mask = [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in batch]
        with torch.inference_mode():
            out = loaded.model.generate(
                input_ids=torch.tensor(ids, device=loaded.model.device),
                attention_mask=torch.tensor(mask, device=loaded.model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
            )
        texts = loaded.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            answers[i] = text.strip()
        progress(min(start + _BATCH, len(order)))
    return answers
