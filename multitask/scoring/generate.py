"""Greedy generation: for tasks without a closed label set, and to see what a model says freely."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multitask.errors import MultitaskError
from multitask.scoring.encode import Tokens
from multitask.scoring.model import LoadedModel

_MOST_ROWS = 64


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int,
    token_budget: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Continue every prompt with the most probable token until the turn ends.

    Args:
        loaded: The model.
        prompts: Prompts in tokens.
        max_new_tokens: Longest answer.
        token_budget: Bound on a batch's tokens, answers included; halves when memory runs out.
        progress: Told how many prompts are done.

    Returns:
        The answers as text, without special tokens.

    Raises:
        MultitaskError: Memory does not suffice for one prompt.
    """
    answers = [""] * len(prompts)
    # Longest first: what does not fit should fail at once.
    pending = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    while pending:
        width = len(prompts[pending[0]]) + max_new_tokens
        batch = pending[: min(_MOST_ROWS, max(1, token_budget // width))]
        try:
            texts = _batch(loaded, [prompts[i] for i in batch], max_new_tokens)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MultitaskError(
                    f"memory does not suffice for one prompt of {width - max_new_tokens} tokens",
                    fix="shorten the prompts, or load the model in 4 bits",
                ) from None
            token_budget = min(token_budget, len(batch) * width) // 2
            continue
        for i, text in zip(batch, texts, strict=True):
            answers[i] = text.strip()
        del pending[: len(batch)]
        progress(len(prompts) - len(pending))
    return answers


def _batch(loaded: LoadedModel, prompts: Sequence[Tokens], max_new_tokens: int) -> list[str]:
    import torch

    model, width = loaded.model, max(map(len, prompts))
    pad = loaded.tokenizer.pad_token_id or 0  # masked, so any will do
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with torch.inference_mode():
        out = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
        )
    # An encoder-decoder returns the answer alone.
    begin = 0 if model.config.is_encoder_decoder else width
    texts: list[str] = loaded.tokenizer.batch_decode(out[:, begin:], skip_special_tokens=True)
    return texts


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in said)
