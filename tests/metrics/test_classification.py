"""Metrics of labels against scikit-learn and known values."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

from multitask.metrics import METRICS, Predictions, compute
from multitask.metrics.classification import (
    accuracy,
    confusion_matrix,
    macro_f1,
    micro_f1,
    per_label,
)
from multitask.metrics.intervals import wilson

Pairs = list[tuple[str, str]]

pairs_of_labels = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40
)
with_off_list = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc!?")), min_size=1, max_size=40
)


def _rows(pairs: Pairs, labels: str = "abc", *, repeated: bool = False) -> Predictions:
    items = [i // 2 for i in range(len(pairs))] if repeated else None
    return Predictions([g for g, _ in pairs], [p for _, p in pairs], labels, items=items)


def _f1(average: str) -> Callable[[list[str], list[str]], float]:
    def f1(gold: list[str], predicted: list[str]) -> float:
        present = sorted((set(gold) | set(predicted)) & set("abc"))
        return float(
            reference.f1_score(gold, predicted, average=average, labels=present, zero_division=0)
        )

    return f1


def _kappa(gold: list[str], predicted: list[str]) -> float:
    value = reference.cohen_kappa_score(gold, predicted)
    return 0.0 if np.isnan(value) else float(value)


def _balanced(gold: list[str], predicted: list[str]) -> float:
    return float(reference.recall_score(gold, predicted, average="macro", labels=sorted(set(gold))))


def _mcc(gold: list[str], predicted: list[str]) -> float:
    # All off-list answers are one label.
    merged = ["!" if p == "?" else p for p in predicted]
    return float(reference.matthews_corrcoef(gold, merged))


REFERENCES = {
    "accuracy": reference.accuracy_score,
    "macro_f1": _f1("macro"),
    "balanced_accuracy": _balanced,
    "weighted_f1": _f1("weighted"),
    "micro_f1": _f1("micro"),
    "mcc": _mcc,
    "cohen_kappa": _kappa,
}
OF_LABELS = [METRICS[name] for name in REFERENCES]


def test_every_metric_of_labels_has_a_reference() -> None:
    of_confusion = {m.name for m in METRICS.values() if m.of == "confusion"}
    assert of_confusion | {"accuracy"} == REFERENCES.keys()


@given(with_off_list)
def test_values_equal_scikit_learn(pairs: Pairs) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {name: float(of(gold, predicted)) for name, of in REFERENCES.items()}
    found = compute(_rows(pairs, "abcd"), OF_LABELS)
    assert {name: e.value for name, e in found.items()} == pytest.approx(expected, abs=1e-12)


@given(with_off_list, st.booleans())
def test_intervals_hold_the_value_and_stay_in_bounds(pairs: Pairs, repeated: bool) -> None:
    for name, found in compute(_rows(pairs, repeated=repeated), OF_LABELS).items():
        lowest = -1 if name in {"mcc", "cohen_kappa"} else 0
        assert lowest - 1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12


@given(pairs_of_labels, st.randoms())
def test_the_order_of_rows_and_labels_does_not_matter(pairs: Pairs, random: object) -> None:
    mixed = list(pairs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, two = compute(_rows(pairs), OF_LABELS), compute(_rows(mixed, "cab"), OF_LABELS)
    assert {n: e.value for n, e in one.items()} == pytest.approx(
        {n: e.value for n, e in two.items()}
    )


def test_the_bootstrap_over_cells_gives_the_intervals_of_a_plain_one() -> None:
    rng = np.random.default_rng(0)
    gold = rng.choice(list("abc"), 200).tolist()
    predicted = [g if rng.random() < 0.7 else str(rng.choice(list("abc"))) for g in gold]
    rows = Predictions(gold, predicted, "abc")
    assert not isinstance(rows.confusion[1], int)
    found = compute(rows, [macro_f1])["macro_f1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = [
            _f1("macro")([gold[i] for i in some], [predicted[i] for i in some])
            for some in rng.integers(0, 200, (300, 200))
        ]
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)


@pytest.mark.parametrize("name", REFERENCES)
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    rng = np.random.default_rng(1)
    table = np.array([[0.35, 0.05, 0.05], [0.05, 0.2, 0.05], [0.02, 0.03, 0.2]])
    cells = [(g, p) for g in "abc" for p in "abc"]

    def metric(counts: np.ndarray) -> tuple[float, float, float]:
        pairs = [cell for cell, n in zip(cells, counts, strict=True) for _ in range(n)]
        found = compute(_rows(pairs), [METRICS[name]])[name]
        return found.low, found.value, found.high

    truth = metric((table.ravel() * 10_000).round().astype(int))[1]
    intervals = [metric(counts) for counts in rng.multinomial(250, table.ravel(), size=150)]
    assert 0.89 <= np.mean([low <= truth <= high for low, _, high in intervals]) <= 0.99


def test_items_widen_the_interval_of_repeated_rows() -> None:
    gold, predicted = list("aabbcc" * 5) * 4, list("aabbca" * 4 + "cabbca") * 4
    items = [i % 30 for i in range(120)]
    wide = compute(Predictions(gold, predicted, "abc", items=items), [accuracy, macro_f1])
    narrow = compute(Predictions(gold, predicted, "abc"), [accuracy, macro_f1])
    for name in ("accuracy", "macro_f1"):
        assert wide[name].high - wide[name].low > 1.5 * (narrow[name].high - narrow[name].low)


def test_micro_f1_counts_an_off_list_answer_as_no_false_positive() -> None:
    # 1 true positive, 1 false negative, no false positive: 2 / 3, while accuracy is 1 / 2.
    found = micro_f1(Predictions(["a", "b"], ["a", "!"], "ab"))
    assert found is not None
    assert found.value == pytest.approx(2 / 3)


def test_one_label_only() -> None:
    found = compute(Predictions(["a"] * 5, ["a"] * 5, "ab"), OF_LABELS)
    expected = {name: 0 if name in ("mcc", "cohen_kappa") else 1 for name in REFERENCES}
    assert {name: e.value for name, e in found.items()} == expected


@given(with_off_list)
def test_the_confusion_matrix_equals_scikit_learn(pairs: Pairs) -> None:
    merged = [(g, "!" if p == "?" else p) for g, p in pairs]
    expected = reference.confusion_matrix(*zip(*merged, strict=True), labels=list("abc!"))
    assert confusion_matrix(_rows(pairs)).tolist() == expected[:3].tolist()


@given(with_off_list, st.booleans())
def test_scores_of_labels_equal_scikit_learn(pairs: Pairs, repeated: bool) -> None:
    expected = reference.precision_recall_fscore_support(
        *zip(*pairs, strict=True), labels=list("abc"), zero_division=0
    )
    for i, scores in enumerate(per_label(_rows(pairs, repeated=repeated))):
        found = [0 if e is None else e.value for e in (scores.precision, scores.recall, scores.f1)]
        assert [*found, scores.support] == pytest.approx([column[i] for column in expected])
        for e in (scores.precision, scores.recall, scores.f1):
            assert e is None or 0 <= e.low <= e.value <= e.high <= 1


def test_precision_and_recall_have_wilson_intervals() -> None:
    a = per_label(Predictions(list("aaab"), list("aabb"), "ab"))[0]
    assert (a.precision, a.recall) == (wilson(2, 2), wilson(2, 3))


def test_what_a_label_does_not_define_is_none() -> None:
    rows = Predictions(list("aab"), list("aac"), "abcd")
    _, never_predicted, never_gold, absent = per_label(rows)
    assert never_predicted.precision is None
    assert never_predicted.f1 is not None
    assert never_gold.recall is None
    assert (absent.precision, absent.recall, absent.f1) == (None, None, None)
