"""Memory: invariants first, then the traps that cost a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multitask.errors import InputError
from multitask.estimate import (
    Memory,
    Spread,
    Training,
    Workload,
    estimate_memory,
    full,
    lora,
)
from tests.estimate.reference import LLAMA_8B, QWEN

_WORK = Workload(rows=1000, mean_tokens=100)
_SPREADS = [
    Spread("fsdp", 8),
    Spread("hsdp", 4, 3),
    Spread("zero1", 8),
    Spread("zero2", 8),
    Spread("zero3", 8),
    Spread("ddp", 1, 8),
]


def _memory(training: Training, spread: Spread, work: Workload = _WORK) -> Memory:
    return estimate_memory(LLAMA_8B, training, spread, work)


def test_the_parts_make_up_the_whole() -> None:
    found = _memory(full(LLAMA_8B), Spread("fsdp", 8))
    parts = found.weights + found.gradients + found.optimizer + found.activations
    assert found.total == pytest.approx(parts + found.logits + found.buffers + found.overhead)


@pytest.mark.parametrize("sharding", ["fsdp", "zero3"])
def test_full_sharding_divides_the_state_by_the_gpus(sharding: str) -> None:
    few, many = (_memory(full(LLAMA_8B), Spread(sharding, n)).state for n in (4, 12))
    assert few == pytest.approx(3 * many)


def test_each_zero_stage_takes_less() -> None:
    stages = [_memory(full(LLAMA_8B), Spread(f"zero{n}", 8)).state for n in (1, 2, 3)]
    assert stages == sorted(stages, reverse=True)
    assert len(set(stages)) == 3


def test_hybrid_sharding_needs_what_one_node_needs() -> None:
    hybrid, node = (_memory(full(LLAMA_8B), s) for s in (Spread("hsdp", 4, 3), Spread("fsdp", 4)))
    assert hybrid.state == node.state


@pytest.mark.parametrize("spread", _SPREADS, ids=lambda s: s.sharding)
def test_adapters_need_less_than_full_and_quantised_bases_less_still(spread: Spread) -> None:
    totals = [_memory(full(LLAMA_8B), spread).state]
    totals += [_memory(lora(LLAMA_8B, 16, base_bits=bits), spread).state for bits in (16, 8, 4)]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(
    "more",
    [{"micro_batch": 2}, {"sequence_len": 4096}, {"checkpointing": False}, {"flash": False}],
    ids=str,
)
def test_more_work_takes_more_memory(more: dict[str, object]) -> None:
    training, spread = lora(LLAMA_8B, 16), Spread()
    larger = replace(_WORK, **more)  # type: ignore[arg-type]
    assert _memory(training, spread, larger).total > _memory(training, spread).total


def test_a_fused_loss_saves_most_of_the_logits_of_long_sequences() -> None:
    """Of short ones those of answers are made in its place."""

    def logits(length: int, *, fused: bool) -> float:
        work = replace(_WORK, sequence_len=length, fused_loss=fused)
        return _memory(lora(LLAMA_8B, 16), Spread(), work).logits

    assert logits(16_384, fused=True) == pytest.approx(logits(16_384, fused=False) / 16)
    assert logits(4096, fused=True) == pytest.approx(2**26 * 12 / 1e9)
    assert logits(256, fused=True) == logits(256, fused=False)


def test_activations_grow_with_the_square_of_the_length_without_flash_attention() -> None:
    def activations(length: int) -> float:
        work = replace(_WORK, sequence_len=length, flash=False, checkpointing=False)
        return _memory(lora(LLAMA_8B, 16), Spread(), work).activations

    assert activations(65_536) / activations(32_768) == pytest.approx(4, rel=0.1)


def test_accumulation_under_fsdp_keeps_whole_gradients_unless_synchronised() -> None:
    """accelerate's no_sync: 2 bytes per parameter, on every GPU."""
    training, spread = full(LLAMA_8B), Spread("fsdp", 12)
    once = _memory(training, spread)
    kept = _memory(training, spread, replace(_WORK, accumulation=8))
    synced = _memory(
        training, replace(spread, sync_each_batch=True), replace(_WORK, accumulation=8)
    )
    assert synced == once
    assert kept.buffers - once.buffers > 12
    assert _memory(training, Spread("zero3", 12), replace(_WORK, accumulation=8)) == _memory(
        training, Spread("zero3", 12)
    )


def test_offloading_moves_the_state_to_main_memory() -> None:
    here = _memory(full(LLAMA_8B), Spread("zero3", 8))
    away = _memory(full(LLAMA_8B), Spread("zero3", 8, cpu_offload=True))
    assert away.state == 0
    assert away.host == pytest.approx(here.state)
    stage_2 = _memory(full(LLAMA_8B), Spread("zero2", 8, cpu_offload=True))
    assert stage_2.weights == pytest.approx(LLAMA_8B.parameters * 2 / 1e9)


def test_quantisation_shrinks_linear_layers_alone() -> None:
    shape = QWEN["1.8B"]
    wide, narrow = (
        estimate_memory(shape, lora(shape, 8, base_bits=b), Spread(), _WORK) for b in (16, 8)
    )
    assert wide.weights - narrow.weights == pytest.approx(shape.linear_parameters / 1e9)


def test_an_unknown_sharding_is_refused() -> None:
    with pytest.raises(InputError, match="'zero4'"):
        Spread("zero4")
