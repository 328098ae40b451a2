"""What all ways of reading share: signatures, log-probabilities, running out of memory."""

from __future__ import annotations

import inspect
from typing import Any

from multitask.scoring.trie import Floats, Ints


def accepts(model: Any, name: str) -> bool:
    """Whether a model's forward takes an argument."""
    return name in inspect.signature(model.forward).parameters


def log_probabilities(logits: Any, row: Ints, column: Ints, token: Ints) -> Floats:
    """Log-probabilities of tokens.

    Args:
        logits: Shape (rows, columns, vocabulary).
        row: Row of each token.
        column: Column of the logits that predict it.
        token: The token; -1 stands for none, whose log-probability is 0.
    """
    import numpy as np
    import torch

    width = logits.shape[1]
    # Many tokens are asked of one place (all children of a branch): its sum is taken once.
    places, which = np.unique(row * width + column, return_inverse=True)
    flat = logits.reshape(-1, logits.shape[-1])
    if len(places) < len(flat):
        flat = flat[torch.from_numpy(places).to(flat.device)]
    flat = flat.float()
    at = torch.from_numpy(which.reshape(-1)).to(flat.device)
    chosen = torch.from_numpy(np.maximum(token, 0)).to(flat.device)
    values = flat[at, chosen] - flat.logsumexp(-1)[at]
    found: Floats = np.where(token < 0, 0.0, values.cpu().numpy().astype(np.float64))
    return found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return type(error).__name__ == "OutOfMemoryError" or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
