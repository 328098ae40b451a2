"""Batch arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.cluster import derive_batch, load_cluster
from multitask.errors import InputError


@given(st.integers(1, 400))
def test_the_parts_multiply_to_the_whole_or_are_refused(size: int) -> None:
    cluster = load_cluster("3x4-a100-80gb")
    if size % 12:
        with pytest.raises(InputError, match="cannot be divided over 12 GPUs"):
            derive_batch(size, cluster)
        return
    batch = derive_batch(size, cluster)
    assert 12 * batch.micro * batch.accumulation == size
    assert batch.micro <= cluster.max_micro_batch


def test_the_refusal_names_the_nearest_batches() -> None:
    with pytest.raises(InputError, match="use 108 or 96"):
        derive_batch(100, load_cluster("3x4-a100-80gb"))
