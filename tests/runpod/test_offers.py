"""Shapes, prices and budgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.data.workload import Workload
from multitask.errors import InputError
from multitask.models import model_info
from multitask.runpod.offers import USUAL, Offer, offers, shapes_for, usable
from multitask.spec import Spec
from tests.runpod.conftest import sample_spec

WORK = Workload(rows=10_000, validation_rows=500, tokens_per_row=100.0, longest=400, counted=True)


def quoted(spec: Spec, *shapes: str, **prices: object) -> list[Offer]:
    return offers(spec, model_info(spec.model, Path()), WORK, shapes or USUAL, **prices)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cluster", "shapes"),
    [
        ("3x4-a100-80gb", USUAL),
        ("2x8-a100-80gb", USUAL[1:]),
        ("1x8-a100-80gb", USUAL[2:]),
        ("1xh100", ("1xh100", "1x8-a100-80gb")),
    ],
)
def test_a_spec_begins_with_its_own_shape(cluster: str, shapes: tuple[str, ...]) -> None:
    assert shapes_for(sample_spec(cluster), None) == shapes


def test_shapes_that_are_given_are_all_that_is_tried() -> None:
    assert shapes_for(sample_spec("3x4-a100-80gb"), ("1xh100",)) == ("1xh100",)


def test_the_cost_is_hours_times_rate_of_all_gpus_and_disks() -> None:
    (offer,) = quoted(sample_spec("3x4-a100-80gb"), "3x4-a100-80gb", price=2.0)
    disks = 3 * offer.disk_gb * 0.10 / 730
    assert offer.usd_per_hour == pytest.approx(24.0 + disks)
    assert offer.hours is not None
    assert offer.usd == pytest.approx(offer.hours * offer.usd_per_hour)


def test_today_s_list_price_counts_before_the_shipped_one() -> None:
    prices = {"NVIDIA A100-SXM4-80GB": 3.0}
    (offer,) = quoted(sample_spec("1x8-a100-80gb"), "1x8-a100-80gb", prices=prices)
    assert offer.usd_per_hour == pytest.approx(24.0, rel=0.01)
    assert offer.price == "RunPod's catalogue, today"


def test_the_limit_leaves_room_for_the_machine_to_stop_in_order() -> None:
    (offer,) = quoted(sample_spec("1x8-a100-80gb"), "1x8-a100-80gb")
    assert offer.usd is not None
    assert offer.needed is not None
    limit = offer.limit(None)
    assert limit is not None
    assert offer.usd < offer.needed <= limit


def test_what_does_not_fit_is_not_rented_and_says_why() -> None:
    spec = sample_spec("1x24gb").model_copy(update={"method": "full"})
    (offer,) = quoted(spec, "1x24gb")
    assert "24 GB" in offer.problem
    with pytest.raises(InputError, match="no shape can train this run: 1x24gb"):
        usable([offer], max_cost=None, volume=None)


def test_dearer_fall_backs_are_left_out_of_a_tight_budget() -> None:
    found = quoted(sample_spec("3x4-a100-80gb"))
    needs = {offer.shape: offer.needed or 0.0 for offer in found}
    between = (needs["3x4-a100-80gb"] + needs["2x8-a100-80gb"]) / 2
    kept = usable(found, max_cost=between, volume="v")
    assert [offer.shape for offer in kept] == ["3x4-a100-80gb", "1x8-a100-80gb"]


def test_a_model_of_unknown_size_needs_a_limit() -> None:
    spec = sample_spec("1x8-a100-80gb").model_copy(update={"model": "owner/unknown"})
    found = quoted(spec, "1x8-a100-80gb")
    with pytest.raises(InputError, match="no cost can be estimated"):
        usable(found, max_cost=None, volume=None)
    assert usable(found, max_cost=20.0, volume=None) == found


def test_a_cluster_of_cpus_is_not_rented() -> None:
    with pytest.raises(InputError, match="RunPod rents no 'cpu'"):
        quoted(sample_spec("cpu"), "cpu")
