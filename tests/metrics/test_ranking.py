"""ROC-AUC and PR-AUC against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import assume, given
from hypothesis import strategies as st

from multitask.metrics.ranking import pr_auc, ranking_metrics, roc_auc

rows = st.lists(
    st.tuples(st.booleans(), st.one_of(st.integers(0, 3), st.floats(-1, 1))),
    min_size=2,
    max_size=40,
).filter(lambda found: len({positive for positive, _ in found}) == 2)


@given(rows, st.booleans())
def test_values_equal_scikit_learn(pairs: list[tuple[bool, float]], clustered: bool) -> None:
    positive, score = [p for p, _ in pairs], [float(s) for _, s in pairs]
    clusters = [i // 2 for i in range(len(pairs))] if clustered else None
    found = ranking_metrics(positive, score, clusters=clusters)
    assert found["roc_auc"].value == pytest.approx(reference.roc_auc_score(positive, score))
    expected = reference.average_precision_score(positive, score)
    assert found["pr_auc"].value == pytest.approx(expected)
    for estimate in found.values():
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1 + 1e-12


@given(rows)
def test_the_other_label_with_the_opposite_score_has_the_same_area(
    pairs: list[tuple[bool, float]],
) -> None:
    positive, score = [p for p, _ in pairs], [float(s) for _, s in pairs]
    one = roc_auc(positive, score).value
    assert roc_auc([not p for p in positive], [-s for s in score]).value == pytest.approx(one)


def test_equal_rows_put_together_have_the_same_value() -> None:
    positive, score = [True, False, True, False] * 50, [0.9, 0.9, 0.4, 0.1] * 50
    expected = reference.average_precision_score(positive, score)
    assert pr_auc(positive, score).value == pytest.approx(expected)


def test_the_interval_holds_the_truth() -> None:
    # Of two normal distributions one standard deviation apart: Phi(1 / sqrt(2)) = 0.7602.
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        positive = rng.random(200) < 0.3
        estimate = roc_auc(positive, rng.normal(size=200) + positive)
        held += estimate.low <= 0.7602 <= estimate.high
    assert 0.90 <= held / 100 <= 0.99


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.booleans())
def test_one_label_only_is_refused(score: list[float], positive: bool) -> None:
    assume(score)
    with pytest.raises(ValueError, match="rows of both labels"):
        roc_auc([positive] * len(score), score)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has a score of NaN"):
        roc_auc([True, False], [0.5, float("nan")])
    with pytest.raises(ValueError, match="scores"):
        roc_auc([True, False], [0.5])
