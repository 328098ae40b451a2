"""The threshold below which a person decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.calibration.abstention import (
    Rule,
    at_threshold,
    choose_threshold,
)
from multitask.metrics.estimate import wilson

rows = st.lists(
    st.tuples(st.sampled_from([0.3, 0.5, 0.8, 0.9, 0.99]), st.booleans()), min_size=1, max_size=60
)
rules = st.sampled_from(["lower_bound", "point_estimate"])


@given(rows, rules, st.sampled_from([0.2, 0.5, 0.9, 1.0]))
def test_no_threshold_that_reaches_the_target_answers_more(
    pairs: list[tuple[float, bool]], rule: Rule, target: float
) -> None:
    confidence, correct = [c for c, _ in pairs], [r for _, r in pairs]
    found = choose_threshold(confidence, correct, target=target, rule=rule)
    reaching = []
    for threshold in set(confidence):
        kept = [r for c, r in pairs if c >= threshold]
        precision = wilson(sum(kept), len(kept))
        if (precision.low if rule == "lower_bound" else precision.value) >= target:
            reaching.append(threshold)
    assert found.threshold == min(reaching, default=None)


@given(rows, rules)
def test_precision_and_coverage_are_those_of_the_answered_rows(
    pairs: list[tuple[float, bool]], rule: Rule
) -> None:
    confidence, correct = [c for c, _ in pairs], [r for _, r in pairs]
    found = choose_threshold(confidence, correct, target=0.5, rule=rule)
    kept = [r for c, r in pairs if found.threshold is not None and c >= found.threshold]
    assert found.coverage == wilson(len(kept), len(pairs))
    assert found.precision == (wilson(sum(kept), len(kept)) if kept else None)
    assert found.rows == len(pairs)


def test_that_none_reaches_the_target_is_a_result() -> None:
    found = choose_threshold([0.9, 0.8, 0.7], [True, True, True])
    assert (found.threshold, found.precision, found.coverage.value) == (None, None, 0)


@pytest.mark.parametrize(("n", "reached"), [(72, False), (73, True)])
def test_seventy_three_rows_without_an_error_make_95_percent(n: int, reached: bool) -> None:
    found = choose_threshold(np.linspace(0.5, 1, n), [True] * n)
    assert (found.threshold is not None) == reached
    assert choose_threshold([0.5], [True], rule="point_estimate").threshold == 0.5


def _missed(rule: Rule) -> float:
    """How often the true precision of the chosen threshold is below the target."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0.5, 1, 5001)
    missed = 0
    for _ in range(300):
        confidence = rng.uniform(0.5, 1, 500)
        chosen = choose_threshold(
            confidence, rng.random(500) < confidence, target=0.9, rule=rule
        ).threshold
        missed += chosen is not None and grid[grid >= chosen].mean() < 0.9
    return missed / 300


def test_the_lower_bound_keeps_its_promise_on_new_rows_and_the_point_estimate_does_not() -> None:
    assert _missed("lower_bound") <= 0.06
    assert _missed("point_estimate") >= 0.5


def test_repeated_rows_do_not_make_the_threshold_surer() -> None:
    confidence, correct = [0.9] * 80, [True] * 80
    assert choose_threshold(confidence, correct).threshold == 0.9
    clusters = [i // 2 for i in range(80)]
    assert choose_threshold(confidence, correct, clusters=clusters).threshold is None
    assert at_threshold(0.9, confidence, correct, clusters=clusters)[0] == wilson(40, 40)


def test_one_row_an_item_is_no_cluster() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(300)
    correct = rng.random(300) < confidence
    plain = choose_threshold(confidence, correct, target=0.6)
    assert choose_threshold(confidence, correct, target=0.6, clusters=range(300)) == plain
    assert plain.threshold is not None


def test_a_threshold_on_other_rows() -> None:
    precision, coverage = at_threshold(0.5, [0.4, 0.5, 0.6, 0.7], [True, True, False, True])
    assert precision == wilson(2, 3)
    assert coverage == wilson(3, 4)
    assert at_threshold(0.9, [0.4], [True])[0] is None


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        choose_threshold([], [])
    with pytest.raises(ValueError, match="a target precision of 0"):
        choose_threshold([0.5], [True], target=0)
    with pytest.raises(ValueError, match="row 1 has a confidence of NaN"):
        choose_threshold([0.5, float("nan")], [True, True])
    with pytest.raises(ValueError, match="confidences but"):
        at_threshold(0.5, [0.5], [True, False])
