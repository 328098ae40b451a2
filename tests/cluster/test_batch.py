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
    assert batch.micro <= 8


@given(st.floats(1, 200))
def test_the_default_holds_about_96_rows_or_one_sequence_a_gpu(rows_per_sequence: float) -> None:
    batch = derive_batch(None, load_cluster("3x4-a100-80gb"), rows_per_sequence=rows_per_sequence)
    nearest = abs(batch.global_size * rows_per_sequence - 96) <= 6 * rows_per_sequence * 1.001
    assert batch.global_size == 12 or nearest


def test_memory_bounds_the_micro_batch() -> None:
    batch = derive_batch(96, load_cluster("3x4-a100-80gb"), most=3)
    assert (batch.micro, batch.accumulation) == (2, 4)


def test_the_refusal_names_the_nearest_batches() -> None:
    with pytest.raises(InputError, match="use 108 or 96"):
        derive_batch(100, load_cluster("3x4-a100-80gb"))
