"""Step time, checkpoints, cost and comparison."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multitask.errors import InputError
from multitask.estimate import (
    Machines,
    Plan,
    Spread,
    Workload,
    checkpoint_cadence,
    checkpoint_gb,
    compare,
    disk_gb,
    estimate,
    flops_per_token,
    full,
    lora,
    save_seconds,
    step_time,
)
from tests.estimate.reference import LLAMA_8B

_WORK = Workload(rows=20_000, mean_tokens=120, epochs=2, micro_batch=2, accumulation=4)
_NODES = Machines(gpus_per_node=4, nodes=3, memory_gb=80, usd_per_hour=16.68, name="3x4")
_PLAN = Plan(LLAMA_8B, lora(LLAMA_8B, 16), Spread("hsdp", 4, 3), _NODES, _WORK, method="lora")


def test_full_fine_tuning_costs_six_operations_per_weight_and_adapters_four() -> None:
    work = replace(_WORK, mean_tokens=1, checkpointing=False)
    weights = LLAMA_8B.linear_parameters + LLAMA_8B.vocab_size * LLAMA_8B.hidden_size
    assert flops_per_token(LLAMA_8B, full(LLAMA_8B), work) == pytest.approx(6 * weights, rel=1e-3)
    side = lora(LLAMA_8B, 1)
    assert flops_per_token(LLAMA_8B, side, work) == pytest.approx(4 * weights, rel=1e-2)


def test_checkpointing_adds_a_forward_pass() -> None:
    work = replace(_WORK, mean_tokens=1)
    without = flops_per_token(LLAMA_8B, full(LLAMA_8B), replace(work, checkpointing=False))
    assert flops_per_token(LLAMA_8B, full(LLAMA_8B), work) == pytest.approx(
        without * 4 / 3, rel=0.01
    )


def test_hybrid_sharding_talks_less_between_nodes_than_full_sharding() -> None:
    training = full(LLAMA_8B)
    whole, hybrid = (
        step_time(LLAMA_8B, training, spread, _NODES, _WORK)
        for spread in (Spread("fsdp", 12), Spread("hsdp", 4, 3))
    )
    assert hybrid.communication < whole.communication
    assert hybrid.compute == whole.compute


def test_a_slow_link_never_makes_it_faster() -> None:
    times = [
        step_time(
            LLAMA_8B,
            full(LLAMA_8B),
            Spread("fsdp", 12),
            replace(_NODES, inter_node_gb_s=rate),
            _WORK,
        ).total
        for rate in (200.0, 50.0, 10.0, 1.0)
    ]
    assert times == sorted(times)
    assert times[-1] > 2 * times[0]


def test_one_gpu_needs_no_link() -> None:
    alone = Machines(intra_node_gb_s=None, inter_node_gb_s=None)
    assert step_time(LLAMA_8B, lora(LLAMA_8B, 8), Spread(), alone, _WORK).communication == 0


def test_a_missing_bandwidth_is_named() -> None:
    with pytest.raises(InputError, match="inter_node_gb_s"):
        step_time(
            LLAMA_8B,
            full(LLAMA_8B),
            Spread("fsdp", 12),
            replace(_NODES, inter_node_gb_s=None),
            _WORK,
        )


def test_offloading_takes_time() -> None:
    here, away = (
        step_time(LLAMA_8B, full(LLAMA_8B), Spread("zero3", 12, cpu_offload=o), _NODES, _WORK)
        for o in (False, True)
    )
    assert here.offload == 0
    assert away.total > here.total


def test_packing_needs_fewer_steps() -> None:
    assert _WORK.steps(12) * 4 < replace(_WORK, packing=False).steps(12)


def test_the_interval_minimises_the_loss() -> None:
    best = checkpoint_cadence(1.0, 60, 24, longest_minutes=1000)
    for minutes in (best.minutes / 2, best.minutes * 0.9):
        other = checkpoint_cadence(1.0, 60, 24, longest_minutes=minutes)
        assert other.expected_loss_percent > best.expected_loss_percent


@pytest.mark.parametrize(("step", "save"), [(0.5, 5.0), (3.0, 600.0), (50.0, 60.0)])
def test_a_checkpoint_comes_at_least_every_30_minutes(step: float, save: float) -> None:
    found = checkpoint_cadence(step, save, 240)
    assert found.minutes <= 30
    assert found.minutes == pytest.approx(found.save_steps * step / 60)


def test_a_step_longer_than_the_interval_is_saved_each_time() -> None:
    assert checkpoint_cadence(4000.0, 10, 24).save_steps == 1


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nonsense_is_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="positive"):
        checkpoint_cadence(*numbers)


def test_an_adapters_checkpoint_holds_the_adapter_alone() -> None:
    side = lora(LLAMA_8B, 16)
    assert checkpoint_gb(side, Spread("fsdp", 12)) == pytest.approx(side.trainable * 12 / 1e9)


def test_disk_holds_one_checkpoint_more_than_are_kept() -> None:
    training, spread = full(LLAMA_8B), Spread("fsdp", 12)
    sizes = [disk_gb(LLAMA_8B, training, spread, keep=keep) for keep in (2, 3)]
    assert sizes[1] - sizes[0] == pytest.approx(checkpoint_gb(training, spread))
    assert sizes[0] > 3 * checkpoint_gb(training, spread)


def test_cost_is_hours_times_price() -> None:
    found = estimate(_PLAN)
    assert found.usd == pytest.approx(found.hours * 16.68)
    training = found.steps * found.step.total / 3600
    assert found.hours > training
    assert estimate(replace(_PLAN, machines=replace(_NODES, usd_per_hour=None))).usd is None


def test_a_short_run_pays_for_one_save_and_a_long_one_for_many() -> None:
    slow = replace(_PLAN, training=full(LLAMA_8B), write_gb_s=0.1)
    stall = save_seconds(checkpoint_gb(slow.training, slow.spread), write_gb_s=0.1)
    short, long = (
        estimate(replace(slow, workload=replace(_WORK, rows=rows))) for rows in (10, 5_000_000)
    )
    assert short.steps * short.step.total < short.cadence.minutes * 60
    assert short.hours * 3600 == pytest.approx(600 + short.step.total + stall, rel=0.01)
    saves = long.steps // long.cadence.save_steps
    assert saves > 3
    assert long.hours * 3600 > long.steps * long.step.total + saves * stall


def test_a_plan_that_does_not_fit_says_what_does_not() -> None:
    small = replace(_NODES, memory_gb=24)
    found = estimate(replace(_PLAN, training=full(LLAMA_8B), machines=small))
    assert found.fits is False
    assert "of a GPU's 24 GB" in found.why_not
    spread = Spread("zero3", 12, cpu_offload=True)
    host = replace(_NODES, host_memory_gb=8)
    found = estimate(replace(_PLAN, training=full(LLAMA_8B), spread=spread, machines=host))
    assert "main memory" in found.why_not


def test_a_comparison_has_a_row_for_each_plan_the_cheapest_that_fits_first() -> None:
    one = Machines(memory_gb=48, usd_per_hour=1.39, name="1x1")
    blind = replace(_NODES, inter_node_gb_s=None, name="blind")
    plans = [
        replace(_PLAN, training=full(LLAMA_8B), spread=Spread(), machines=one, method="full"),
        replace(_PLAN, machines=blind, spread=Spread("fsdp", 12)),
        _PLAN,
        replace(_PLAN, spread=Spread(), machines=one),
    ]
    rows = compare(plans)
    assert len(rows) == len(plans)
    fitting = [row for row in rows if row.fits]
    assert [row.fits for row in rows] == [True] * len(fitting) + [False] * (4 - len(fitting))
    prices = [row.estimate.usd for row in fitting if row.estimate and row.estimate.usd]
    assert prices == sorted(prices)
    assert len(prices) == 2
    assert rows[-1].cluster == "blind"
    assert "inter_node_gb_s" in rows[-1].reason
