"""Calibrators: the optimum, what they leave alone, and scores with gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from multitask.calibration import (
    Calibrator,
    before_and_after,
    fit_contextual,
    fit_temperature,
)
from multitask.calibration.calibrator import LEAST_TEMPERATURE, MOST_TEMPERATURE
from multitask.metrics.probabilities import normalised

LABELS = [f"label {i}" for i in range(12)]
NAN = float("nan")


def _rows(
    n: int, temperature: float, seed: int = 0, spread: float = 1.5
) -> tuple[list[str], np.ndarray]:
    """Rows of a model whose scores are too large by the temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, len(LABELS)))
    logits[np.arange(n), rng.integers(0, len(LABELS), n)] += 4
    gold = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return [LABELS[i] for i in gold], logits * temperature


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 5))
def test_the_temperature_has_the_least_log_loss(seed: int, truth: float) -> None:
    gold, scores = _rows(40, truth, seed)
    found = fit_temperature(gold, scores, LABELS).temperature
    rows, codes = np.arange(40), [LABELS.index(g) for g in gold]
    best = minimize_scalar(
        lambda log_t: -normalised(scores / np.exp(log_t))[rows, codes].mean(),
        bounds=(np.log(LEAST_TEMPERATURE), np.log(MOST_TEMPERATURE)),
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(float(np.exp(best.x)), rel=1e-3)


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_the_temperature_of_the_data_is_recovered(truth: float) -> None:
    gold, scores = _rows(4000, truth)
    assert fit_temperature(gold, scores, LABELS).temperature == pytest.approx(truth, rel=0.06)


@given(st.floats(-30, 30))
def test_a_constant_per_row_changes_nothing(constant: float) -> None:
    gold, scores = _rows(30, 2.0)
    one, two = (fit_temperature(gold, s, LABELS) for s in (scores, scores + constant))
    assert one.temperature == pytest.approx(two.temperature, rel=1e-6)


def test_a_temperature_keeps_the_order_of_labels() -> None:
    _, scores = _rows(50, 2.0)
    applied = Calibrator("temperature", 3.0).apply(scores)
    assert (np.argsort(applied, axis=1) == np.argsort(scores, axis=1)).all()
    assert np.exp(applied).sum(axis=1) == pytest.approx(np.ones(50))


def test_gaps_in_the_scores_hardly_move_the_temperature() -> None:
    gold, scores = _rows(3000, 2.0, spread=3)
    probabilities = np.exp(normalised(scores))
    order = np.argsort(-probabilities, axis=1)
    before = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    visited = np.empty_like(before, dtype=bool)
    # A label is scored while the mass before it is below 1 - 1e-3.
    first = np.c_[np.zeros(len(before)), before[:, :-1]] < 1 - 1e-3
    np.put_along_axis(visited, order, first, axis=1)
    assert visited.mean() < 0.5
    gaps = np.where(visited, scores, NAN)
    mass = np.where(visited, 0, probabilities).sum(axis=1)
    whole = fit_temperature(gold, scores, LABELS).temperature
    fitted = fit_temperature(gold, gaps, LABELS).temperature
    filled = fit_temperature(gold, normalised(gaps, mass), LABELS).temperature
    assert fitted == pytest.approx(whole, rel=0.05)
    assert abs(fitted - whole) < abs(filled - whole)


def test_rows_without_an_error_leave_the_temperature_at_one() -> None:
    assert fit_temperature(LABELS, 2 * np.eye(12), LABELS).temperature == 1
    assert fit_temperature(LABELS, np.zeros((12, 12)), LABELS).temperature == 1


def test_scores_that_say_the_contrary_are_flattened_as_far_as_it_goes() -> None:
    assert fit_temperature(LABELS, -2 * np.eye(12), LABELS).temperature == MOST_TEMPERATURE


def test_contextual_calibration_divides_by_the_content_free_probabilities() -> None:
    probabilities, free = np.array([[0.6, 0.3, 0.1]]), np.array([0.5, 0.25, 0.25])
    found = np.exp(fit_contextual(np.log(free)).apply(np.log(probabilities)))
    expected = probabilities / free
    assert found == pytest.approx(expected / expected.sum())


def test_the_content_free_input_itself_becomes_uniform() -> None:
    free = np.array([[0.3, -1.0, 2.0]])
    assert np.exp(fit_contextual(free).apply(free)) == pytest.approx(np.full((1, 3), 1 / 3))


def test_several_content_free_inputs_are_averaged_as_probabilities() -> None:
    found = fit_contextual(np.log([[0.8, 0.2], [0.4, 0.6]])).log_prior
    assert np.exp(found) == pytest.approx([0.6, 0.4])


def test_a_temperature_after_a_prior_keeps_the_prior() -> None:
    gold, scores = _rows(300, 2.0)
    prior = fit_contextual(np.linspace(0, 1, 12))
    found = fit_temperature(gold, scores, LABELS, after=prior)
    assert found.method == "contextual+temperature"
    assert found.log_prior == prior.log_prior
    alone = fit_temperature(gold, prior.apply(scores), LABELS)
    assert found.temperature == pytest.approx(alone.temperature)


def test_before_and_after_on_other_rows() -> None:
    calibrator = fit_temperature(*_rows(600, 2.5, seed=1), LABELS)
    gold, scores = _rows(800, 2.5, seed=2)
    found = before_and_after(calibrator, gold, scores, LABELS)
    assert found["after"]["accuracy"] == found["before"]["accuracy"]
    assert found["after"]["ece"].high < found["before"]["ece"].low
    for name, change in found["change"].items():
        expected = found["after"][name].value - found["before"][name].value
        assert change.value == pytest.approx(expected)
        assert change.high < 0


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no row's gold label was scored"):
        fit_temperature([LABELS[0]], [[NAN, *[0.0] * 11]], LABELS)
    with pytest.raises(ValueError, match="needs the score of every label"):
        fit_contextual([0.0, NAN])
    with pytest.raises(ValueError, match="label number 1 has probability 0"):
        fit_contextual([0.0, -2000.0])
    with pytest.raises(ValueError, match="a prior of 2 labels for 3"):
        fit_contextual([0.0, 1.0]).apply([[0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="for 1 rows"):
        fit_temperature([LABELS[0]], np.zeros((2, 12)), LABELS)
