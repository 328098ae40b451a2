"""Metrics of label probabilities against scikit-learn and known values."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from multitask.metrics.probabilities import (
    brier,
    log_loss,
    normalised,
    probability_metrics,
    score_matrix,
    top,
    top_k_accuracy,
)

LABELS = "abcd"
INF, NAN = float("inf"), float("nan")

matrices = st.integers(1, 12).flatmap(lambda n: arrays(float, (n, 4), elements=st.floats(-60, 30)))


def _gold(rows: int, seed: int = 0) -> list[str]:
    return np.random.default_rng(seed).choice(list(LABELS), rows).tolist()


@given(matrices)
def test_log_loss_and_brier_equal_scikit_learn(scores: np.ndarray) -> None:
    gold = _gold(len(scores))
    probabilities = np.exp(normalised(scores))
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(scores)))
    expected = reference.log_loss(gold, probabilities, labels=list(LABELS))
    assert log_loss(gold, scores, LABELS).value == pytest.approx(expected, abs=1e-9)
    one_hot = np.eye(4)[[LABELS.index(g) for g in gold]]
    squares = ((probabilities - one_hot) ** 2).sum(axis=1).mean()
    assert brier(gold, scores, LABELS).value == pytest.approx(squares, abs=1e-9)


def test_brier_with_two_labels_is_twice_the_binary_score() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 2))
    gold = list("ab" * 15)
    binary = reference.brier_score_loss([g == "b" for g in gold], np.exp(normalised(scores))[:, 1])
    assert brier(gold, scores, "ab").value == pytest.approx(2 * binary)


@given(matrices, st.floats(-20, 20))
def test_a_constant_per_row_changes_nothing(scores: np.ndarray, constant: float) -> None:
    gold = _gold(len(scores))
    one = probability_metrics(gold, scores, LABELS)
    two = probability_metrics(gold, scores + constant, LABELS)
    for name, estimate in one.items():
        assert two[name].value == pytest.approx(estimate.value, abs=1e-7)


@given(matrices)
def test_intervals_hold_the_value(scores: np.ndarray) -> None:
    found = probability_metrics(_gold(len(scores)), scores, LABELS)
    for name, highest in (("log_loss", 36.05), ("brier", 2 + 1e-9)):
        assert 0 <= found[name].low <= found[name].value <= found[name].high <= highest


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_equals_scikit_learn(k: int) -> None:
    scores, gold = np.random.default_rng(0).normal(size=(60, 4)), _gold(60)
    expected = reference.top_k_accuracy_score(gold, scores, k=k, labels=list(LABELS))
    assert top_k_accuracy(gold, scores, LABELS, k=k).value == pytest.approx(expected)


def test_of_equal_scores_the_earlier_label_is_higher() -> None:
    assert top_k_accuracy(["a", "b"], [[0, 0, 0, 0]] * 2, LABELS, k=1).value == 0.5
    assert top([[0, 0, 0, 0]])[0].tolist() == [0]


def test_a_gold_label_that_was_not_scored_is_missed() -> None:
    scores = [[0, NAN, NAN, NAN], [0, -INF, NAN, NAN]]
    assert top_k_accuracy(["b", "b"], scores, LABELS, k=4).value == 0
    assert top_k_accuracy(["a", "a"], scores, LABELS, k=1).value == 1


def test_labels_not_scored_are_impossible_without_a_bound() -> None:
    scores = [[np.log(0.2), np.log(0.6), NAN, -INF]]
    assert np.exp(normalised(scores))[0] == pytest.approx([0.25, 0.75, 0, 0])
    assert log_loss(["c"], scores, LABELS).value == pytest.approx(36.04, abs=0.01)


def test_labels_not_visited_share_the_bound_of_their_mass() -> None:
    scores = [[np.log(0.2), np.log(0.6), NAN, -INF], [0.0, 0.0, 0.0, 0.0]]
    found = np.exp(normalised(scores, [0.1, 0.1]))
    assert found[0] == pytest.approx([0.225, 0.675, 0.05, 0.05])
    # The second row has no label left for the bound to lie on.
    assert found[1] == pytest.approx([0.25] * 4)


@given(matrices.filter(lambda m: len(m) > 0), st.floats(0, 0.5), st.floats(1, 8))
def test_the_confidence_is_a_lower_bound_at_any_temperature(
    scores: np.ndarray, kept: float, temperature: float
) -> None:
    whole = normalised(scores)
    best = whole.argmax(axis=1)
    visited = whole >= np.quantile(whole, kept, axis=1, keepdims=True)
    mass = np.where(visited, 0, np.exp(whole)).sum(axis=1)
    bounded = normalised(np.where(visited, scores, NAN), np.minimum(mass * 1.01, 0.999))
    truth = np.exp(normalised(whole / temperature))[np.arange(len(best)), best]
    stated = np.exp(normalised(bounded / temperature))[np.arange(len(best)), best]
    assert (stated <= truth + 1e-9).all()


def test_scores_of_some_labels_make_a_matrix_with_gaps() -> None:
    found = score_matrix([("ab", (1.0, 2.0)), ("d", (3.0,))], LABELS)
    assert np.array_equal(found, [[1, 2, NAN, NAN], [NAN, NAN, NAN, 3]], equal_nan=True)


@pytest.mark.parametrize(
    ("scores", "bound", "expected"),
    [
        ([[0, INF]], None, "row 0 has \\+inf"),
        ([[0, 1], [NAN, -INF]], None, "row 1 has no finite score"),
        ([[0, 1]], 1.0, "row 0 has an unvisited mass"),
        ([[0, 1]], NAN, "row 0 has an unvisited mass"),
        ([0, 1], None, "shape"),
    ],
)
def test_wrong_scores_are_refused(scores: object, bound: float | None, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        normalised(scores, bound)  # type: ignore[arg-type]


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="for 2 rows, 4 labels"):
        log_loss(["a", "b"], [[0, 0, 0, 0]], LABELS)
    with pytest.raises(ValueError, match="top 5 of 4"):
        top_k_accuracy(["a"], [[0, 0, 0, 0]], LABELS, k=5)
    with pytest.raises(ValueError, match="2 labels but 1 scores"):
        score_matrix([("ab", (1.0,))], LABELS)
    with pytest.raises(ValueError, match="unknown labels"):
        score_matrix([("x", (1.0,))], LABELS)
