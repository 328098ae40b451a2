"""Calibrators: the optimum, what they leave alone, and scores with gaps."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
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
    found = fit_temperature(gold, scores, LABELS)
    rows, codes = np.arange(40), [LABELS.index(g) for g in gold]

    def losses(temperature: float) -> np.ndarray:
        return -Calibrator("temperature", temperature).apply(scores)[rows, codes]

    best = minimize_scalar(
        lambda log_t: losses(float(np.exp(log_t))).mean(),
        bounds=(np.log(LEAST_TEMPERATURE), np.log(MOST_TEMPERATURE)),
        options={"xatol": 1e-9},
    )
    if found.method == "temperature":
        assert found.temperature == pytest.approx(float(np.exp(best.x)), rel=1e-3)
    else:
        gain = losses(1.0) - losses(float(np.exp(best.x)))
        all_right = (scores.argmax(axis=1) == codes)[normalised(scores).max(axis=1) > np.log(0.5)]
        assert all_right.all() or gain.mean() <= 1.001 * scipy.stats.sem(gain)
        assert found == Calibrator()


@pytest.mark.parametrize("truth", [0.5, 2.5])
def test_of_two_labels_the_temperature_of_the_data_is_recovered(truth: float) -> None:
    """Guo et al.'s temperature scaling, where the log-odds are all that there is."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 2))
    gold = [LABELS[i] for i in (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)]
    found = fit_temperature(gold, logits * truth, LABELS[:2])
    assert found.temperature == pytest.approx(truth, rel=0.06)
    whole = normalised(logits * truth / found.temperature)
    assert found.apply(logits * truth) == pytest.approx(whole)


def test_a_temperature_that_gains_no_more_than_chance_is_left_out() -> None:
    gold, scores = _rows(400, 1.0)
    assert fit_temperature(gold, scores, LABELS) == Calibrator()
    prior = fit_contextual(np.zeros(12))
    assert fit_temperature(gold, scores, LABELS, after=prior) == prior


def test_repeated_rows_do_not_make_a_gain_surer() -> None:
    gold, scores = next(
        (gold, scores)
        for gold, scores in (_rows(60, 1.6, seed) for seed in range(50))
        if fit_temperature(gold, scores, LABELS) == Calibrator()
        and fit_temperature(gold * 20, np.tile(scores, (20, 1)), LABELS) != Calibrator()
    )
    items = list(range(60)) * 20
    again = fit_temperature(gold * 20, np.tile(scores, (20, 1)), LABELS, clusters=items)
    assert again == Calibrator()


@given(st.floats(-30, 30))
def test_a_constant_per_row_changes_nothing(constant: float) -> None:
    gold, scores = _rows(30, 2.0)
    one, two = (fit_temperature(gold, s, LABELS) for s in (scores, scores + constant))
    assert one.temperature == pytest.approx(two.temperature, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_a_temperature_keeps_the_answers_and_the_proportions_of_the_others(
    temperature: float,
) -> None:
    _, scores = _rows(50, 2.0)
    given, applied = normalised(scores), Calibrator("temperature", temperature).apply(scores)
    assert (applied.argmax(axis=1) == scores.argmax(axis=1)).all()
    assert np.exp(applied).sum(axis=1) == pytest.approx(np.ones(50))
    best = np.exp(given.max(axis=1))
    likely = best > 0.5
    assert likely.any()
    assert not likely.all()
    assert applied[~likely] == pytest.approx(given[~likely])
    odds = np.exp(applied.max(axis=1)) / (1 - np.exp(applied.max(axis=1)))
    expected = (best / (1 - best))[likely] ** (1 / temperature)
    assert odds[likely] == pytest.approx(expected, rel=1e-4)
    shift = np.sort(applied - given, axis=1)
    others = shift[:, 1:] if temperature > 1 else shift[:, :-1]
    assert np.ptp(others, axis=1) == pytest.approx(np.zeros(50), abs=1e-9)


def test_how_the_tail_is_spread_does_not_move_the_temperature() -> None:
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
    filled = fit_temperature(gold, normalised(gaps, mass), LABELS).temperature
    assert whole > 1.2
    assert filled == pytest.approx(whole, rel=1e-9)


def test_rows_without_an_error_leave_the_temperature_at_one() -> None:
    assert fit_temperature(LABELS, 2 * np.eye(12), LABELS).temperature == 1
    assert fit_temperature(LABELS, np.zeros((12, 12)), LABELS).temperature == 1


def test_scores_that_say_the_contrary_are_flattened_as_far_as_it_goes() -> None:
    gold = [LABELS[i % 2] for i in range(20)]
    scores = 2 * np.eye(2)[[(i + 1) % 2 for i in range(20)]]
    assert fit_temperature(gold, scores, LABELS[:2]).temperature == MOST_TEMPERATURE


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
    with pytest.raises(ValueError, match="needs the score of every label"):
        fit_contextual([0.0, NAN])
    with pytest.raises(ValueError, match="label number 1 has probability 0"):
        fit_contextual([0.0, -2000.0])
    with pytest.raises(ValueError, match="a prior of 2 labels for 3"):
        fit_contextual([0.0, 1.0]).apply([[0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="for 1 rows"):
        fit_temperature([LABELS[0]], np.zeros((2, 12)), LABELS)
