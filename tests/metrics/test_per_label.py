"""The confusion matrix and the metrics of each label."""

from __future__ import annotations

import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

from multitask.metrics.estimate import wilson
from multitask.metrics.per_label import confusion_matrix, per_label

answers = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc!")), min_size=1, max_size=40
)


@given(answers)
def test_the_confusion_matrix_equals_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    expected = reference.confusion_matrix(gold, predicted, labels=list("abc!"))
    assert confusion_matrix(gold, predicted, "abc").tolist() == expected[:3].tolist()


@given(answers, st.booleans())
def test_scores_equal_scikit_learn(pairs: list[tuple[str, str]], clustered: bool) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    clusters = [i // 2 for i in range(len(gold))] if clustered else None
    expected = reference.precision_recall_fscore_support(
        gold, predicted, labels=list("abc"), zero_division=0
    )
    for i, scores in enumerate(per_label(gold, predicted, "abc", clusters=clusters)):
        found = [0 if e is None else e.value for e in (scores.precision, scores.recall, scores.f1)]
        assert [*found, scores.support] == pytest.approx([column[i] for column in expected])
        for e in (scores.precision, scores.recall, scores.f1):
            assert e is None or 0 <= e.low <= e.value <= e.high <= 1


def test_precision_and_recall_have_wilson_intervals() -> None:
    a = per_label(list("aaab"), list("aabb"), "ab")[0]
    assert (a.precision, a.recall) == (wilson(2, 2), wilson(2, 3))


def test_what_a_label_does_not_define_is_none() -> None:
    _, never_predicted, never_gold, absent = per_label(list("aab"), list("aac"), "abcd")
    assert never_predicted.precision is None
    assert never_predicted.f1 is not None
    assert never_gold.recall is None
    assert (absent.precision, absent.recall, absent.f1) == (None, None, None)
