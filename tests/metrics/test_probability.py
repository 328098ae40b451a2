"""Metrics of label probabilities against scikit-learn and known values."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from multitask.metrics import METRICS, Interval, Predictions, compute
from multitask.metrics.probability import (
    BINS,
    among_top,
    expected_calibration_error,
    log_softmax,
    rarer_label,
    reliability_bins,
    score_matrix,
    top,
)

LABELS = "abcd"
INF, NAN = float("inf"), float("nan")

matrices = st.integers(1, 12).flatmap(lambda n: arrays(float, (n, 4), elements=st.floats(-60, 30)))


def _gold(rows: int, seed: int = 0) -> list[str]:
    return np.random.default_rng(seed).choice(list(LABELS), rows).tolist()


def _found(
    gold: list[str], scores: object, labels: str = LABELS, *, more: dict[str, object] | None = None
) -> dict[str, Interval]:
    """All metrics of probabilities."""
    rows = Predictions(gold, gold, labels, np.array(scores, dtype=float), **(more or {}))  # type: ignore[arg-type]
    return compute(rows, [m for m in METRICS.values() if m.needs == ("log_probs",)])


@given(matrices)
def test_log_loss_and_brier_equal_scikit_learn(scores: np.ndarray) -> None:
    gold = _gold(len(scores))
    probabilities = np.exp(log_softmax(scores))
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(scores)))
    expected = reference.log_loss(gold, probabilities, labels=list(LABELS))
    assert _found(gold, scores)["log_loss"].value == pytest.approx(expected, abs=1e-9)
    one_hot = np.eye(4)[[LABELS.index(g) for g in gold]]
    squares = ((probabilities - one_hot) ** 2).sum(axis=1).mean()
    assert _found(gold, scores)["brier"].value == pytest.approx(squares, abs=1e-9)


def test_brier_with_two_labels_is_twice_the_binary_score() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 2))
    gold = list("ab" * 15)
    binary = reference.brier_score_loss([g == "b" for g in gold], np.exp(log_softmax(scores))[:, 1])
    assert _found(gold, scores, "ab")["brier"].value == pytest.approx(2 * binary)


@given(matrices, st.floats(-20, 20))
def test_a_constant_per_row_changes_nothing(scores: np.ndarray, constant: float) -> None:
    gold = _gold(len(scores))
    one, two = _found(gold, scores), _found(gold, scores + constant)
    for name in ("log_loss", "brier"):
        assert two[name].value == pytest.approx(one[name].value, abs=1e-7)


@given(matrices)
def test_intervals_hold_the_value(scores: np.ndarray) -> None:
    found = _found(_gold(len(scores)), scores)
    for name, highest in (("log_loss", 36.05), ("brier", 2 + 1e-9)):
        assert 0 <= found[name].low <= found[name].value <= found[name].high <= highest


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_equals_scikit_learn(k: int) -> None:
    scores, gold = np.random.default_rng(0).normal(size=(60, 4)), _gold(60)
    expected = reference.top_k_accuracy_score(gold, scores, k=k, labels=list(LABELS))
    found = among_top(Predictions(gold, gold, LABELS, scores), k)
    assert found is not None
    assert found.mean() == pytest.approx(expected)
    assert _found(gold, scores)["top_3_accuracy"].value >= found.mean()


def test_of_equal_scores_the_earlier_label_is_higher() -> None:
    rows = Predictions(["a", "b"], ["a", "a"], LABELS, np.zeros((2, 4)))
    assert among_top(rows, 1).tolist() == [True, False]  # type: ignore[union-attr]
    assert top([[0, 0, 0, 0]])[0].tolist() == [0]


@pytest.mark.parametrize("mass", [None, np.array([0.3, 0.3])])
def test_a_gold_label_that_was_not_scored_is_missed(mass: np.ndarray | None) -> None:
    scores = np.array([[0, NAN, NAN, NAN], [0, -INF, NAN, NAN]])
    for gold, k, expected in (("b", 3, False), ("a", 1, True)):
        rows = Predictions([gold] * 2, ["a"] * 2, LABELS, scores, mass)
        assert among_top(rows, k).tolist() == [expected] * 2  # type: ignore[union-attr]


def test_there_is_no_top_k_of_k_labels() -> None:
    assert "top_3_accuracy" in _found(["a"], np.zeros((1, 4)))
    assert "top_3_accuracy" not in _found(["a"], np.zeros((1, 3)), "abc")


def test_labels_not_scored_are_impossible_without_a_bound() -> None:
    scores = [[np.log(0.2), np.log(0.6), NAN, -INF]]
    assert np.exp(log_softmax(scores))[0] == pytest.approx([0.25, 0.75, 0, 0])
    assert _found(["c"], scores)["log_loss"].value == pytest.approx(36.04, abs=0.01)


def test_labels_not_scored_share_the_residual_mass() -> None:
    scores = [[np.log(0.2), np.log(0.6), NAN, -INF], [0.0, 0.0, 0.0, 0.0]]
    found = np.exp(log_softmax(scores, [0.1, 0.1]))
    assert found[0] == pytest.approx([0.225, 0.675, 0.05, 0.05])
    # The second row has no label left for the bound to lie on.
    assert found[1] == pytest.approx([0.25] * 4)


@given(matrices.filter(lambda m: len(m) > 0), st.floats(0, 0.5), st.floats(1, 8))
def test_the_confidence_is_a_lower_bound_at_any_temperature(
    scores: np.ndarray, kept: float, temperature: float
) -> None:
    whole = log_softmax(scores)
    best = whole.argmax(axis=1)
    visited = whole >= np.quantile(whole, kept, axis=1, keepdims=True)
    mass = np.where(visited, 0, np.exp(whole)).sum(axis=1)
    bounded = log_softmax(np.where(visited, scores, NAN), np.minimum(mass * 1.01, 0.999))
    truth = np.exp(log_softmax(whole / temperature))[np.arange(len(best)), best]
    stated = np.exp(log_softmax(bounded / temperature))[np.arange(len(best)), best]
    assert (stated <= truth + 1e-9).all()


def test_scores_of_some_labels_make_a_matrix_with_gaps() -> None:
    found = score_matrix([("ab", (1.0, 2.0)), ("d", (3.0,))], LABELS)
    assert np.array_equal(found, [[1, 2, NAN, NAN], [NAN, NAN, NAN, 3]], equal_nan=True)


@pytest.mark.parametrize(
    ("scores", "bound", "expected"),
    [
        ([[0, INF]], None, "row 0 has \\+inf"),
        ([[0, 1], [NAN, -INF]], None, "row 1 has no finite score"),
        ([[0, 1]], 1.0, "row 0 has a residual mass"),
        ([[0, 1]], NAN, "row 0 has a residual mass"),
        ([0, 1], None, "shape"),
    ],
)
def test_wrong_scores_are_refused(scores: object, bound: float | None, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        log_softmax(scores, bound)  # type: ignore[arg-type]


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="for 1 rows, 4 labels"):
        _found(["a"], [[0, 0, 0]])
    with pytest.raises(ValueError, match="2 labels but 1 scores"):
        score_matrix([("ab", (1.0,))], LABELS)
    with pytest.raises(ValueError, match="unknown labels"):
        score_matrix([("x", (1.0,))], LABELS)


pairs_of_two = st.lists(
    st.tuples(st.booleans(), st.one_of(st.integers(0, 3), st.floats(-1, 1))),
    min_size=2,
    max_size=40,
).filter(lambda found: len({positive for positive, _ in found}) == 2)


def _areas(
    positive: list[bool], score: list[float], *, repeated: bool = False, labels: str = "np"
) -> dict[str, Interval]:
    gold = ["p" if p else "n" for p in positive]
    # The log-odds are the score.
    table = np.array(score, dtype=float)[:, None] * [x == "p" for x in labels]
    items = [i // 2 for i in range(len(gold))] if repeated else None
    return _found(gold, table, labels, more={"positive_label": "p", "items": items})


@given(pairs_of_two, st.booleans())
def test_areas_equal_scikit_learn(pairs: list[tuple[bool, float]], repeated: bool) -> None:
    positive, score = [p for p, _ in pairs], [float(s) for _, s in pairs]
    # Scores that a softmax does not tell apart are equal.
    known = log_softmax(np.array(score)[:, None] * [0, 1])[:, 1]
    found = _areas(positive, score, repeated=repeated)
    assert found["roc_auc"].value == pytest.approx(reference.roc_auc_score(positive, known))
    expected = reference.average_precision_score(positive, known)
    assert found["pr_auc"].value == pytest.approx(expected)
    for name in ("roc_auc", "pr_auc"):
        assert 0 <= found[name].low <= found[name].value <= found[name].high <= 1 + 1e-12


def test_areas_over_cells_have_the_same_value() -> None:
    positive, score = [True, False, True, False] * 50, [0.9, 0.9, 0.4, 0.1] * 50
    expected = reference.average_precision_score(positive, score)
    assert _areas(positive, score)["pr_auc"].value == pytest.approx(expected)


def test_the_interval_of_an_area_holds_the_truth() -> None:
    # Of two normal distributions one standard deviation apart: Phi(1 / sqrt(2)) = 0.7602.
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        positive = rng.random(200) < 0.3
        found = _areas(positive.tolist(), (rng.normal(size=200) + positive).tolist())["roc_auc"]
        held += found.low <= 0.7602 <= found.high
    assert 0.90 <= held / 100 <= 0.99


@pytest.mark.parametrize("labels", ["hs", "sh"])
def test_a_random_score_of_a_rare_label_is_no_success(labels: str) -> None:
    """Of ham, which 95 % of rows are, it would have a PR-AUC of 0.95."""
    rng = np.random.default_rng(0)
    gold = ["s"] * 100 + ["h"] * 1900
    scores = np.log(rng.dirichlet([1, 1], len(gold)))
    found = _found(gold, scores, labels)["pr_auc"].value
    assert found == pytest.approx(0.05, abs=0.02)
    expected = reference.average_precision_score(
        [g == "s" for g in gold], scores[:, labels.index("s")]
    )
    assert found == pytest.approx(expected)


def test_of_equally_frequent_labels_the_later_one_is_looked_for() -> None:
    assert rarer_label(["no", "yes"], ["no", "yes"]) == "yes"


def test_one_gold_label_or_three_labels_have_no_area() -> None:
    assert "roc_auc" not in _found(["a"] * 3, np.zeros((3, 2)), "ab")
    assert "roc_auc" not in _found(["a", "b"], np.zeros((2, 3)), "abc")


pairs_of_confidence = st.lists(
    st.tuples(st.sampled_from([0.2, 0.5, 0.5000001, 0.9, 1.0]), st.booleans()),
    min_size=1,
    max_size=40,
)


def _plain(confidence: np.ndarray, correct: np.ndarray) -> float:
    """ECE by its definition, for different confidences."""
    order = np.array_split(np.argsort(confidence), BINS)
    gaps = [len(i) * abs(confidence[i].mean() - correct[i].mean()) for i in order if len(i)]
    return float(sum(gaps) / len(confidence))


def test_different_confidences_give_the_textbook_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(150)
    correct = rng.random(150) < confidence**2
    found = expected_calibration_error(confidence, correct).value
    assert found == pytest.approx(_plain(confidence, correct))


@given(pairs_of_confidence, st.randoms())
def test_the_order_of_rows_does_not_matter(pairs: list[tuple[float, bool]], random: object) -> None:
    mixed = list(pairs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, two = (
        expected_calibration_error([c for c, _ in some], [r for _, r in some])
        for some in (pairs, mixed)
    )
    assert one.value == pytest.approx(two.value)


@given(pairs_of_confidence, st.booleans())
def test_bins_and_error_agree(pairs: list[tuple[float, bool]], repeated: bool) -> None:
    pairs = pairs * (150 // len(pairs) + 1)  # enough rows for as many bins as the error has
    confidence, correct = [c for c, _ in pairs], [r for _, r in pairs]
    items = [i // 2 for i in range(len(pairs))] if repeated else None
    bins = reliability_bins(confidence, correct, items)
    found = expected_calibration_error(confidence, correct, items)
    assert sum(b.count for b in bins) == len(pairs)
    gaps = [b.count * abs(b.confidence - b.accuracy.value) for b in bins]
    assert found.value == pytest.approx(sum(gaps) / len(pairs))
    assert 0 <= found.low <= found.value <= found.high <= 1
    for one, next_ in pairwise(bins):
        assert one.high < next_.low  # equal confidences are never divided


@pytest.mark.parametrize(("exponent", "least"), [(1.0, 0.95), (1.3, 0.9), (2.0, 0.9)])
def test_the_interval_of_the_error_holds_the_truth(exponent: float, least: float) -> None:
    # The answer is right with probability confidence^exponent: 1 is calibrated.
    rng = np.random.default_rng(0)
    many = np.linspace(0.5, 1, 150_001)
    truth = float(np.mean(many - many**exponent))
    held = 0
    for _ in range(100):
        confidence = rng.uniform(0.5, 1, 400)
        correct = rng.random(400) < confidence**exponent
        found = expected_calibration_error(confidence, correct)
        held += found.low <= truth <= found.high
    assert held / 100 >= least


def test_wrong_confidences_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        expected_calibration_error([], [])
    with pytest.raises(ValueError, match="row 1 has a confidence"):
        expected_calibration_error([0.5, 1.5], [True, True])
    with pytest.raises(ValueError, match="confidences but"):
        reliability_bins([0.5], [True, True])


def test_few_rows_have_fewer_bins() -> None:
    counts = [
        [found.count for found in reliability_bins(np.linspace(0.1, 0.9, n).tolist(), [True] * n)]
        for n in (7, 35, 400)
    ]
    assert [len(bins) for bins in counts] == [1, 3, 15]
    assert all(count >= 10 for bins in counts[1:] for count in bins)
