"""Verdicts follow the paired test, and a threshold that breaks its promise is called that."""

from __future__ import annotations

from typing import Any

import pytest

from multitask.reports.verdicts import (
    got_worse,
    hand_over,
    opponent,
    opponents,
    verdict,
    verdict_by_intervals,
)


def _compared(value: float, p: float) -> dict[str, Any]:
    difference = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {"n": 50, "differences": {"accuracy": difference}, "p_value": p / 3, "p_holm": p}


def _verdict(**others: tuple[float, float]) -> tuple[str, str]:
    comparisons = {name: {"t": _compared(*found)} for name, found in others.items()}
    return verdict(opponents("t", comparisons, {}))


def test_better_than_all_is_better() -> None:
    assert _verdict(base=(0.3, 0.001)) == ("better than base (+30.0 points)", "better")


def test_worse_than_one_is_worse() -> None:
    text, kind = _verdict(base=(0.3, 0.001), majority=(-0.2, 0.01))
    assert kind == "worse"
    assert text == "worse than majority (-20.0 points)"


def test_the_adjusted_p_value_decides() -> None:
    assert _verdict(base=(0.3, 0.06))[1] == "unclear"


@pytest.mark.parametrize(("value", "kind"), [(0.2, "worse"), (-0.2, "better")])
def test_less_of_a_metric_that_should_be_low_is_better(value: float, kind: str) -> None:
    record = _compared(value, 0.01)
    record["differences"] = {"log_loss": record["differences"]["accuracy"]}
    found = opponent("base", record)
    assert (found["verdict"], found["difference"]) == (kind, f"{value:+.3f}")
    comparisons = {"base": {"t": record}}
    lost = list(got_worse({"comparisons": comparisons, "tasks": {}}, {}))
    assert bool(lost) == (kind == "worse")
    own, other = ({"value": v, "low": v - 0.01, "high": v + 0.01} for v in (0.5 + value, 0.5))
    assert verdict_by_intervals("log_loss", own, {"TF-IDF": other})[1] == kind


def test_losses_are_told_and_gains_are_not() -> None:
    comparisons = {
        "base": {"a": _compared(-0.2, 0.01), "b": _compared(0.2, 0.01), "c": _compared(-0.01, 0.9)}
    }
    found = list(got_worse({"comparisons": comparisons, "tasks": {}}, {"base": "Base"}))
    assert [(text.split(":")[0], kind) for text, kind in found] == [
        ("a", "worse"),
        ("c", "unclear"),
    ]
    assert "-20.0 points (-30.0 to -10.0) against Base" in found[0][0]
    assert found[1][0].endswith("within chance")


def _calibrated(threshold: float | None, precision: dict[str, float] | None) -> dict[str, Any]:
    coverage = {"value": 0.5, "low": 0.4, "high": 0.6}
    return {
        "target_precision": 0.95,
        "threshold": threshold,
        "answered": {"precision": precision, "coverage": coverage},
    }


@pytest.mark.parametrize(
    ("low", "value", "high", "kind"),
    [(0.94, 0.97, 0.99, "better"), (0.90, 0.93, 0.96, "unclear"), (0.80, 0.85, 0.90, "worse")],
)
def test_a_threshold_is_judged_by_what_it_promised(
    low: float, value: float, high: float, kind: str
) -> None:
    found = hand_over(_calibrated(0.7, {"low": low, "value": value, "high": high}))
    assert found["verdict"] == kind
    assert "0.700" in found["advice"]


def test_without_a_threshold_all_is_handed_over() -> None:
    assert hand_over(_calibrated(None, None))["advice"].startswith("hand everything over")
