"""Exact scores of closed label sets: log-likelihood of every label after every prompt.

A prompt is computed once; its key-value cache is then shared by all of its labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from multitask.errors import MultitaskError
from multitask.scoring.encode import Encoded, Tokens

Progress = Callable[[int], None]


def label_scores(
    model: Any,
    queries: Sequence[Encoded],
    *,
    pad_token: int,
    token_budget: int = 8192,
    progress: Progress = lambda _: None,
) -> list[list[float]]:
    """Log-likelihood of each answer given its prompt, summed over the answer's tokens.

    Args:
        model: A causal language model.
        queries: Prompts with their answers.
        pad_token: Any valid token id; padding is masked.
        token_budget: Bound on tokens held at once: prompts of a batch, and cache entries times
            answers in the second pass.
        progress: Told how many queries are done.

    Returns:
        For each query, one score per answer, in the order given; natural logarithms.

    Raises:
        MultitaskError: The model returned a number that is not finite.
    """
    import torch

    scores: list[list[float]] = [[] for _ in queries]
    done = 0
    with torch.inference_mode():
        for batch in _batches(queries, token_budget):
            for index, values in zip(
                batch, _score_batch(model, [queries[i] for i in batch], pad_token), strict=True
            ):
                if not all(value == value and value > float("-inf") for value in values):
                    raise MultitaskError(
                        f"the model gave a score that is not finite for query {index}"
                    )
                scores[index] = values
            done += len(batch)
            progress(done)
    return scores


def _batches(queries: Sequence[Encoded], token_budget: int) -> Iterator[list[int]]:
    """Queries of like length and equal answers together, longest first, within the budget.

    Longest first, because a batch that does not fit should fail at once, not in the last minute.
    """
    order = sorted(
        range(len(queries)),
        key=lambda i: (queries[i].answers, len(queries[i].prompt)),
        reverse=True,
    )
    batch: list[int] = []
    for index in order:
        query = queries[index]
        if batch:
            first = queries[batch[0]]
            rows = len(batch) + 1
            width = len(first.prompt) * max(1, len(first.answers) // 8)
            if first.answers != query.answers or rows * width > token_budget:
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch


def _score_batch(model: Any, queries: list[Encoded], pad_token: int) -> list[list[float]]:
    import torch

    device = model.device
    answers = queries[0].answers
    prompts, mask = _left_padded([query.prompt for query in queries], pad_token)
    prompts, mask = prompts.to(device), mask.to(device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    several = max(len(answer) for answer in answers) > 1
    out = model(
        input_ids=prompts,
        attention_mask=mask,
        position_ids=positions,
        use_cache=several,
        logits_to_keep=1,
    )
    first = torch.log_softmax(out.logits[:, -1].float(), dim=-1)
    ids, answer_mask = _right_padded(answers, pad_token)
    ids, answer_mask = ids.to(device), answer_mask.to(device)
    scores = first[:, ids[:, 0]]
    if several:
        scores = scores + _later_tokens(model, out.past_key_values, mask, ids, answer_mask)
    result: list[list[float]] = scores.tolist()
    return result


def _later_tokens(model: Any, cache: Any, mask: Any, ids: Any, answer_mask: Any) -> Any:
    """Log-likelihood of the second and later answer tokens, shape (queries, answers)."""
    import torch

    queries, answers = mask.shape[0], ids.shape[0]
    cache.batch_repeat_interleave(answers)
    inputs = ids[:, :-1].repeat(queries, 1)
    inputs_mask = answer_mask[:, :-1].repeat(queries, 1)
    whole_mask = torch.cat([mask.repeat_interleave(answers, 0), inputs_mask], dim=1)
    lengths = mask.sum(-1, keepdim=True).repeat_interleave(answers, 0)
    positions = lengths + torch.arange(inputs.shape[1], device=inputs.device)
    logits = model(
        input_ids=inputs,
        attention_mask=whole_mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).logits.float()
    targets = ids[:, 1:].repeat(queries, 1)
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    kept = chosen.masked_fill(answer_mask[:, 1:].repeat(queries, 1) == 0, 0.0)
    return kept.sum(-1).view(queries, answers)


def _left_padded(sequences: Sequence[Tokens], pad: int) -> tuple[Any, Any]:
    import torch

    width = max(len(sequence) for sequence in sequences)
    rows = [[pad] * (width - len(s)) + list(s) for s in sequences]
    mask = [[0] * (width - len(s)) + [1] * len(s) for s in sequences]
    return torch.tensor(rows), torch.tensor(mask)


def _right_padded(sequences: Sequence[Tokens], pad: int) -> tuple[Any, Any]:
    import torch

    width = max(len(sequence) for sequence in sequences)
    rows = [list(s) + [pad] * (width - len(s)) for s in sequences]
    mask = [[1] * len(s) + [0] * (width - len(s)) for s in sequences]
    return torch.tensor(rows), torch.tensor(mask)
