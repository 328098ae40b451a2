"""Metrics of labels against scikit-learn and known values."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

from multitask.metrics import accuracy, macro_f1
from multitask.metrics.classification import (
    balanced_accuracy,
    cohen_kappa,
    count_metrics,
    mcc,
    micro_f1,
    weighted_f1,
)
from multitask.metrics.counts import COUNT_METRICS

answers = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=40
)
with_off_list = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc!?")), min_size=1, max_size=40
)


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
    "weighted_f1": _f1("weighted"),
    "micro_f1": _f1("micro"),
    "balanced_accuracy": _balanced,
    "mcc": _mcc,
    "cohen_kappa": _kappa,
}


def test_every_metric_has_a_reference() -> None:
    assert REFERENCES.keys() == COUNT_METRICS.keys()


@given(with_off_list)
def test_values_equal_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {name: float(of(gold, predicted)) for name, of in REFERENCES.items()}
    found = count_metrics(gold, predicted, "abcd")
    assert {name: e.value for name, e in found.items()} == pytest.approx(expected, abs=1e-12)


@given(with_off_list, st.booleans())
def test_intervals_hold_the_value_and_stay_in_bounds(
    pairs: list[tuple[str, str]], clustered: bool
) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    clusters = [i // 2 for i in range(len(gold))] if clustered else None
    for name, estimate in count_metrics(gold, predicted, "abc", clusters=clusters).items():
        lowest = -1 if name in {"mcc", "cohen_kappa"} else 0
        assert lowest - 1e-12 <= estimate.low <= estimate.value <= estimate.high <= 1 + 1e-12


@given(answers, st.randoms())
def test_the_order_of_rows_and_labels_does_not_matter(
    pairs: list[tuple[str, str]], random: object
) -> None:
    mixed = list(pairs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one = count_metrics([g for g, _ in pairs], [p for _, p in pairs], "abc")
    two = count_metrics([g for g, _ in mixed], [p for _, p in mixed], "cab")
    assert {n: e.value for n, e in one.items()} == pytest.approx(
        {n: e.value for n, e in two.items()}
    )


def test_counting_equal_rows_together_gives_the_intervals_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(0)
    gold = rng.choice(list("abc"), 200).tolist()
    predicted = [g if rng.random() < 0.7 else str(rng.choice(list("abc"))) for g in gold]
    estimate = macro_f1(gold, predicted, "abc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = [
            _f1("macro")([gold[i] for i in rows], [predicted[i] for i in rows])
            for rows in rng.integers(0, 200, (300, 200))
        ]
    assert (estimate.low, estimate.high) == pytest.approx(
        np.quantile(draws, [0.025, 0.975]), abs=0.02
    )


@pytest.mark.parametrize("name", COUNT_METRICS)
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    rng = np.random.default_rng(1)
    table = np.array([[0.35, 0.05, 0.05], [0.05, 0.2, 0.05], [0.02, 0.03, 0.2]])
    cells = [(g, p) for g in "abc" for p in "abc"]

    def metric(counts: np.ndarray) -> tuple[float, float, float]:
        pairs = [cell for cell, n in zip(cells, counts, strict=True) for _ in range(n)]
        estimate = count_metrics([g for g, _ in pairs], [p for _, p in pairs], "abc", names=[name])
        return estimate[name].low, estimate[name].value, estimate[name].high

    truth = metric((table.ravel() * 10_000).round().astype(int))[1]
    intervals = [metric(counts) for counts in rng.multinomial(250, table.ravel(), size=150)]
    assert 0.89 <= np.mean([low <= truth <= high for low, _, high in intervals]) <= 0.99


def test_the_bootstrap_is_seeded() -> None:
    gold, predicted = list("aabbccab"), list("aabbcaab")
    assert macro_f1(gold, predicted, "abc") == macro_f1(gold, predicted, "abc")
    assert macro_f1(gold, predicted, "abc", seed=1) != macro_f1(gold, predicted, "abc", seed=2)


def test_clusters_widen_the_interval_of_repeated_rows() -> None:
    gold, predicted = list("aabbcc" * 5) * 4, list("aabbca" * 4 + "cabbca") * 4
    clusters = [i % 30 for i in range(120)]
    for metric in (
        lambda c: accuracy(gold, predicted, clusters=c),
        lambda c: macro_f1(gold, predicted, "abc", clusters=c),
    ):
        wide, narrow = metric(clusters), metric(None)
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_micro_f1_counts_an_off_list_answer_as_no_false_positive() -> None:
    # 1 true positive, 1 false negative, no false positive: 2 / 3, while accuracy is 1 / 2.
    assert micro_f1(["a", "b"], ["a", "!"], "ab").value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [(macro_f1, 1), (weighted_f1, 1), (balanced_accuracy, 1), (mcc, 0), (cohen_kappa, 0)],
)
def test_one_label_only(metric: Callable[..., object], expected: float) -> None:
    estimate = metric(["a"] * 5, ["a"] * 5, "ab")
    assert estimate.value == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("gold", "predicted", "labels", "expected"),
    [
        ([], [], "ab", "no rows"),
        (["a"], [], "ab", "1 gold answers"),
        (["x"], ["a"], "ab", "not in the label space"),
        (["a"], ["a"], "aa", "names a label twice"),
    ],
)
def test_wrong_input_is_refused(
    gold: list[str], predicted: list[str], labels: str, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        macro_f1(gold, predicted, labels)
