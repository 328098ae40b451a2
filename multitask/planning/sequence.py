"""How long sequences are: as short as a good batch and the longest row allow."""

from __future__ import annotations

import math
from typing import NamedTuple

from multitask.cluster import Cluster
from multitask.cluster.batch import DEFAULT_ROWS
from multitask.data.tokens import Workload
from multitask.estimate.assumptions import PACKING_FILL
from multitask.spec import Spec

# Lengths that matrix products on tensor cores like.
_MULTIPLE = 64
# A longer sequence makes no GPU faster; more rows come from a larger micro batch.
_LONG_ENOUGH = 2048


class SequenceLength(NamedTuple):
    """The length of sequences.

    Attributes:
        tokens: Longest row that is trained on; packed sequences have exactly so many.
        reason: Why, in a clause.
    """

    tokens: int
    reason: str


def choose_sequence_len(
    spec: Spec,
    cluster: Cluster,
    workload: Workload,
    *,
    packing: bool,
    max_positions: int | None,
) -> SequenceLength:
    """Choose the length of sequences.

    Packed, an optimizer step has as many tokens as its sequences are long together, whatever they
    hold: rows a step follow from the length. The longest row must fit, though, or it is dropped.

    Args:
        spec: The user's choice, and how many sequences a step has.
        cluster: How many sequences a step has at least: one a GPU.
        workload: How long rows are.
        packing: Whether several rows share a sequence.
        max_positions: Longest sequence that the model was made for; None without a limit.
    """
    if spec.sequence_len is not None:
        return SequenceLength(spec.sequence_len, "as the spec says")
    longest = _rounded_up(workload.longest)
    row = f"the longest row has {'' if workload.counted else 'perhaps '}{workload.longest} tokens"
    tokens, reason = longest, row
    if packing:
        step = DEFAULT_ROWS * workload.tokens_per_row / PACKING_FILL
        sequences = spec.global_batch_size
        if sequences is None:
            world = cluster.world_size
            sequences = world * math.ceil(step / world / _LONG_ENOUGH)
        by_rows = _rounded_up(step / sequences)
        if by_rows >= longest:
            tokens = by_rows
            reason = f"for about {DEFAULT_ROWS} rows an optimizer step; {row}"
    if max_positions is not None and tokens > max_positions:
        return SequenceLength(max_positions, f"the model's longest; {row}")
    return SequenceLength(tokens, reason)


def _rounded_up(tokens: float) -> int:
    return _MULTIPLE * math.ceil(tokens / _MULTIPLE)
