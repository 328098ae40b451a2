"""What a batch knows of itself, computed once where it is put together, in a loader's process.

Flash attention needs the lengths of the packed rows. Left to itself, every layer finds them anew
from the position ids, and each time the host waits for the GPU to tell how long the longest is
(``transformers/modeling_flash_attention_utils.py``, ``_flash_attention_forward``: where all four
of ``cu_seq_lens_q``, ``cu_seq_lens_k``, ``max_length_q`` and ``max_length_k`` are given, it does
neither). Which columns are supervised would make the host wait once more.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from multitask.callbacks.answers import COLUMNS, supervised_columns


class BatchMetadata:
    """A collator that adds to what another one puts together.

    Attributes:
        inner: The collator that makes the batch.
        packed_lengths: Whether lengths of packed rows are added, for flash attention.
        columns: Whether the supervised columns are added.
    """

    def __init__(self, inner: Any, *, packed_lengths: bool, columns: bool) -> None:
        """Wrap ``inner``."""
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

    Args:
        base: The model. Those of transformers that hand keywords on take ``**kwargs`` all the way
            down; any other module on the way to the first attention would raise a TypeError.
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
