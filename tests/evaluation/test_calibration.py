"""Calibration: the optimum, what it leaves alone, the threshold, and calibration.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from multitask.errors import InputError
from multitask.evaluation.calibration import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    Calibrator,
    TaskCalibration,
    at_threshold,
    before_and_after,
    calibrate,
    choose_threshold,
    fit_contextual,
    fit_temperature,
    load,
    save,
)
from multitask.metrics import Predictions
from multitask.metrics.intervals import Items, wilson
from multitask.metrics.registry import log_softmax

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


def _fitted(
    gold: list[str],
    scores: np.ndarray,
    labels: list[str] = LABELS,
    *,
    after: Calibrator | None = None,
    items: Items | None = None,
) -> Calibrator:
    return fit_temperature(Predictions(gold, gold, labels, scores, items=items), after=after)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.3, 5))
def test_the_temperature_has_the_least_log_loss(seed: int, truth: float) -> None:
    gold, scores = _rows(40, truth, seed)
    found = _fitted(gold, scores)
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
        all_right = (scores.argmax(axis=1) == codes)[log_softmax(scores).max(axis=1) > np.log(0.5)]
        assert all_right.all() or gain.mean() <= 1.001 * scipy.stats.sem(gain)
        assert found == Calibrator()


@pytest.mark.parametrize("truth", [0.5, 2.5])
def test_of_two_labels_the_temperature_of_the_data_is_recovered(truth: float) -> None:
    """Guo et al.'s temperature scaling, where the log-odds are all that there is."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 2))
    gold = [LABELS[i] for i in (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)]
    found = _fitted(gold, logits * truth, LABELS[:2])
    assert found.temperature == pytest.approx(truth, rel=0.06)
    whole = log_softmax(logits * truth / found.temperature)
    assert found.apply(logits * truth) == pytest.approx(whole)


def test_a_temperature_that_gains_no_more_than_chance_is_left_out() -> None:
    gold, scores = _rows(400, 1.0)
    assert _fitted(gold, scores) == Calibrator()
    prior = fit_contextual(np.zeros(12))
    assert _fitted(gold, scores, LABELS, after=prior) == prior


def test_repeated_rows_do_not_make_a_gain_surer() -> None:
    gold, scores = next(
        (gold, scores)
        for gold, scores in (_rows(60, 1.6, seed) for seed in range(50))
        if _fitted(gold, scores) == Calibrator()
        and _fitted(gold * 20, np.tile(scores, (20, 1)), LABELS) != Calibrator()
    )
    items = list(range(60)) * 20
    again = _fitted(gold * 20, np.tile(scores, (20, 1)), LABELS, items=items)
    assert again == Calibrator()


@given(st.floats(-30, 30))
def test_a_constant_per_row_changes_nothing(constant: float) -> None:
    gold, scores = _rows(30, 2.0)
    one, two = (_fitted(gold, s) for s in (scores, scores + constant))
    assert one.temperature == pytest.approx(two.temperature, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_a_temperature_keeps_the_answers_and_the_proportions_of_the_others(
    temperature: float,
) -> None:
    _, scores = _rows(50, 2.0)
    given, applied = log_softmax(scores), Calibrator("temperature", temperature).apply(scores)
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
    probabilities = np.exp(log_softmax(scores))
    order = np.argsort(-probabilities, axis=1)
    before = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    visited = np.empty_like(before, dtype=bool)
    # A label is scored while the mass before it is below 1 - 1e-3.
    first = np.c_[np.zeros(len(before)), before[:, :-1]] < 1 - 1e-3
    np.put_along_axis(visited, order, first, axis=1)
    assert visited.mean() < 0.5
    gaps = np.where(visited, scores, NAN)
    mass = np.where(visited, 0, probabilities).sum(axis=1)
    whole = _fitted(gold, scores).temperature
    filled = _fitted(gold, log_softmax(gaps, mass), LABELS).temperature
    assert whole > 1.2
    assert filled == pytest.approx(whole, rel=1e-9)


def test_rows_without_an_error_leave_the_temperature_at_one() -> None:
    assert _fitted(LABELS, 2 * np.eye(12), LABELS).temperature == 1
    assert _fitted(LABELS, np.zeros((12, 12)), LABELS).temperature == 1


def test_scores_that_say_the_contrary_are_flattened_as_far_as_it_goes() -> None:
    gold = [LABELS[i % 2] for i in range(20)]
    scores = 2 * np.eye(2)[[(i + 1) % 2 for i in range(20)]]
    assert _fitted(gold, scores, LABELS[:2]).temperature == MOST_TEMPERATURE


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
    found = _fitted(gold, scores, LABELS, after=prior)
    assert found.method == "contextual+temperature"
    assert found.log_prior == prior.log_prior
    alone = _fitted(gold, prior.apply(scores), LABELS)
    assert found.temperature == pytest.approx(alone.temperature)


def test_before_and_after_on_other_rows() -> None:
    calibrator = _fitted(*_rows(600, 2.5, seed=1))
    gold, scores = _rows(800, 2.5, seed=2)
    found = before_and_after(calibrator, Predictions(gold, gold, LABELS, scores))
    assert found["after"]["accuracy"] == found["before"]["accuracy"]
    assert found["after"]["ece"].high < found["before"]["ece"].low
    for name, change in found["change"].items():
        expected = found["after"][name].value - found["before"][name].value
        assert change.value == pytest.approx(expected)
        assert change.high < 0


def test_a_wrong_prior_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the score of every label"):
        fit_contextual([0.0, NAN])
    with pytest.raises(ValueError, match="label number 1 has probability 0"):
        fit_contextual([0.0, -2000.0])
    with pytest.raises(ValueError, match="a prior of 2 labels for 3"):
        fit_contextual([0.0, 1.0]).apply([[0.0, 0.0, 0.0]])


pairs_of_confidence = st.lists(
    st.tuples(st.sampled_from([0.3, 0.5, 0.8, 0.9, 0.99]), st.booleans()), min_size=1, max_size=60
)


@given(pairs_of_confidence, st.sampled_from([0.2, 0.5, 0.9, 1.0]))
def test_no_threshold_that_reaches_the_target_answers_more(
    pairs: list[tuple[float, bool]], target: float
) -> None:
    confidence, correct = [c for c, _ in pairs], [r for _, r in pairs]
    found = choose_threshold(confidence, correct, target=target)
    reaching = []
    for threshold in set(confidence):
        kept = [r for c, r in pairs if c >= threshold]
        precision = wilson(sum(kept), len(kept))
        if precision.low >= target:
            reaching.append(threshold)
    assert found.threshold == min(reaching, default=None)


@given(pairs_of_confidence)
def test_precision_and_coverage_are_those_of_the_answered_rows(
    pairs: list[tuple[float, bool]],
) -> None:
    confidence, correct = [c for c, _ in pairs], [r for _, r in pairs]
    found = choose_threshold(confidence, correct, target=0.5)
    kept = [r for c, r in pairs if found.threshold is not None and c >= found.threshold]
    assert found.coverage == wilson(len(kept), len(pairs))
    assert found.precision == (wilson(sum(kept), len(kept)) if kept else None)


def test_that_none_reaches_the_target_is_a_result() -> None:
    found = choose_threshold([0.9, 0.8, 0.7], [True, True, True])
    assert (found.threshold, found.precision, found.coverage.value) == (None, None, 0)


@pytest.mark.parametrize(("n", "reached"), [(72, False), (73, True)])
def test_seventy_three_rows_without_an_error_make_95_percent(n: int, reached: bool) -> None:
    found = choose_threshold(np.linspace(0.5, 1, n), [True] * n)
    assert (found.threshold is not None) == reached


def test_the_threshold_keeps_its_promise_on_new_rows() -> None:
    """How often the true precision of the chosen threshold is below the target."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0.5, 1, 5001)
    missed = 0
    for _ in range(300):
        confidence = rng.uniform(0.5, 1, 500)
        right = rng.random(500) < confidence
        chosen = choose_threshold(confidence, right, target=0.9).threshold
        missed += chosen is not None and grid[grid >= chosen].mean() < 0.9
    assert missed / 300 <= 0.06


def test_repeated_rows_do_not_make_the_threshold_surer() -> None:
    confidence, correct = [0.9] * 80, [True] * 80
    assert choose_threshold(confidence, correct).threshold == 0.9
    items = [i // 2 for i in range(80)]
    assert choose_threshold(confidence, correct, items=items).threshold is None
    assert at_threshold(0.9, confidence, correct, items=items)[0] == wilson(40, 40)


def test_one_row_an_item_is_as_without_items() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(300)
    correct = rng.random(300) < confidence
    plain = choose_threshold(confidence, correct, target=0.6)
    assert choose_threshold(confidence, correct, target=0.6, items=range(300)) == plain
    assert plain.threshold is not None


def test_a_threshold_on_other_rows() -> None:
    precision, coverage = at_threshold(0.5, [0.4, 0.5, 0.6, 0.7], [True, True, False, True])
    assert precision == wilson(2, 3)
    assert coverage == wilson(3, 4)
    assert at_threshold(0.9, [0.4], [True])[0] is None


def test_wrong_confidences_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        choose_threshold([], [])
    with pytest.raises(ValueError, match="a target precision of 0"):
        choose_threshold([0.5], [True], target=0)
    with pytest.raises(ValueError, match="row 1 has a confidence of NaN"):
        choose_threshold([0.5, float("nan")], [True, True])
    with pytest.raises(ValueError, match="confidences but"):
        at_threshold(0.5, [0.5], [True, False])


MOODS = ("yes", "no", "perhaps")


def _moods(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 3, n)
    scores = rng.normal(size=(n, 3)) + 4 * np.eye(3)[gold]
    return [MOODS[i] for i in gold], 2 * scores


def _calibrated(task: str, n: int, prior: Calibrator | None = None) -> TaskCalibration:
    gold, scores = _moods(n)
    return calibrate(task, Predictions(gold, gold, MOODS, scores), prior=prior)


def _calibration(n: int = 400) -> TaskCalibration:
    return _calibrated("moods", n)


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    with_prior = _calibrated("b", 50, fit_contextual([0.0, 0.5, 1.0]))
    both = {"moods": _calibration(), "b": with_prior}
    save(tmp_path / "calibration.json", both.values())
    assert load(tmp_path / "calibration.json") == both
    assert with_prior.threshold is None  # 50 rows are too few for 95 %


def test_expectations_are_those_of_validation() -> None:
    gold, scores = _moods(400)
    found = calibrate("moods", Predictions(gold, gold, MOODS, scores))
    applied = found.calibrator.apply(scores)
    assert found.threshold is not None
    answered = np.exp(applied.max(axis=1)) >= found.threshold
    right = np.array([MOODS[i] for i in applied.argmax(axis=1)]) == gold
    assert found.expected_precision is not None
    assert right[answered].mean() == pytest.approx(found.expected_precision.value)
    assert answered.mean() == pytest.approx(found.expected_coverage.value)
    assert found.expected_precision.low >= 0.95


def test_a_residual_mass_lowers_the_confidence() -> None:
    found = _calibration().calibrator
    row = [[0.0, 6.0, NAN]]
    sure, less = (np.exp(found.apply(row, mass))[0, 1] for mass in (None, 0.05))
    expected = np.exp(log_softmax(log_softmax(row, 0.05) / found.temperature))[0, 1]
    assert less == pytest.approx(expected, rel=1e-3)
    assert less < sure


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"temperature": -1}, "tasks.0.temperature"),
        ({"temprature": 1}, "tasks.0.temprature"),
        ({"threshold": 1.5}, "tasks.0.threshold"),
        ({"log_prior": [0.0]}, "1 priors for 3 labels"),
        ({"labels": ["yes", "yes", "no"]}, "names a label twice"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(
    tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    path = tmp_path / "calibration.json"
    save(path, [_calibration()])
    content = json.loads(path.read_text())
    content["tasks"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected):
        load(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "there is no calibration"),
        ("{", "not valid JSON"),
        ('{"version": 2, "tasks": []}', "version"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "calibration.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=expected):
        load(path)
