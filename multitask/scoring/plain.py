"""The plain way to score a label, one forward over prompt and label: what all else is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from multitask.scoring.encode import Encoded

if TYPE_CHECKING:
    from multitask.scoring.scorer import LabelScores


def plain_score(model: Any, query: Encoded, label: int) -> float:
    """Log-likelihood of one label, by a forward over prompt and label without cache or padding."""
    import torch

    answer = query.answers[label]
    ids = torch.tensor([query.prompt + answer[:-1]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(query.prompt) - 1 :]
        logs = logits.float().log_softmax(-1)
    chosen = logs[torch.arange(len(answer)), torch.tensor(answer)]
    return float(chosen.double().sum())


def difference_from_plain(
    model: Any, queries: Sequence[Encoded], found: Sequence[LabelScores]
) -> str:
    """Hold scores of a batch to the plain way.

    The longest and the shortest prompt are compared, the one for the windows that it may exceed,
    the other for its padding; of each the best label and up to two others.

    Args:
        model: A causal model.
        queries: The batch, longest prompt first.
        found: Its scores.

    Returns:
        What differs, in words; empty where nothing does.
    """
    import torch

    # Float32 sums differ by their order alone; in half precision every layer rounds.
    relative, absolute = (1e-4, 5e-4) if model.dtype == torch.float32 else (0.02, 0.3)
    for place in sorted({0, len(queries) - 1}):
        query, scores = queries[place], found[place]
        known = np.flatnonzero(np.isfinite(scores.log_likelihood))
        for label in {scores.best, int(known[0]), int(known[-1])}:
            mine = float(scores.log_likelihood[label])
            right = plain_score(model, query, label)
            if not abs(mine - right) <= absolute + relative * abs(right):
                return (
                    f"a label's log-likelihood is {mine:.4f} by it and {right:.4f} by the plain one"
                )
    return ""
