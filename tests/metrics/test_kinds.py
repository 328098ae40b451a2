"""All metrics of a kind of task in one call."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from multitask.metrics import accuracy
from multitask.metrics.kinds import (
    METRICS,
    Rotations,
    classification_metrics,
    generated_label_metrics,
    generation_metrics,
    multiple_choice_metrics,
    option_metrics,
    rarer_label,
)
from multitask.metrics.multiple_choice import cyclic_orders
from multitask.metrics.ranking import roc_auc
from multitask.tasks import KINDS

NAN = float("nan")


def _classified(labels: list[str], n: int = 60) -> tuple[list[str], list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, len(labels), n)
    scores = rng.normal(size=(n, len(labels))) + 2 * np.eye(len(labels))[gold]
    return [labels[i] for i in gold], [labels[i] for i in scores.argmax(axis=1)], scores


def _choices() -> dict[str, object]:
    gold, predicted, scores = _classified(list("ABCD"), 20)
    codes = ["ABCD".index(g) for g in gold]
    tables = [np.eye(4)[g][cyclic_orders(4)] for g in codes]
    asked = Rotations(tables, codes, [["w", "x", "y", "z"]] * 20)
    return dict(multiple_choice_metrics(gold, predicted, "ABCD", scores, rotations=asked))


def test_each_kind_gives_its_headline_first_and_only_known_metrics() -> None:
    two, six = _classified(["a", "b"]), _classified(list("abcdef"))
    by_kind = {
        "classification": [
            classification_metrics(two[0], two[1], ["a", "b"], two[2]),
            classification_metrics(six[0], six[1], list("abcdef"), six[2]),
            generated_label_metrics(["a", "b"], ["a", "c"], ["a", "b"]),
        ],
        "multiple_choice": [_choices(), multiple_choice_metrics(["A"], ["B"], "AB")],
        "generation": [generation_metrics(["a b"], ["a c"])],
    }
    beside = option_metrics(["A"], ["A"], [[-1.0, -2.0]], [["p", "q"]])
    seen = set(beside)
    for kind, results in by_kind.items():
        for found in results:
            assert next(iter(found)) == KINDS[kind].headline
            assert found.keys() <= METRICS.keys()
            seen |= found.keys()
    assert seen == METRICS.keys()


def test_options_by_text_win_by_their_sum_or_per_character() -> None:
    """The long option loses by its sum and wins per character; equal texts go to the first."""
    scores, texts = [[-2.0, -3.0], [-1.0, -1.0]], [["no", "maybe so"], ["same", "same"]]
    found = option_metrics(["B", "A"], ["B", None], scores, texts)
    assert {name: estimate.value for name, estimate in found.items()} == {
        "letter_accuracy": 0.5,
        "text_accuracy": 0.5,
        "text_accuracy_normalised": 1.0,
    }


def test_results_are_finite_numbers_for_json() -> None:
    gold, predicted, scores = _classified(["a", "b"])
    scores[3] = [0.0, -np.inf]
    scores[4] = [NAN, 0.0]
    found = classification_metrics(gold, predicted, ["a", "b"], scores, unvisited=0.0)
    for estimate in (*found.values(), *_choices().values()):
        json.dumps(estimate.record(), allow_nan=False)  # type: ignore[attr-defined]
        assert estimate.record().keys() == {"value", "low", "high"}  # type: ignore[attr-defined]


def test_probabilities_need_log_probabilities() -> None:
    gold, predicted, scores = _classified(list("abcdef"))
    without = classification_metrics(gold, predicted, list("abcdef"))
    with_them = classification_metrics(gold, predicted, list("abcdef"), scores)
    assert {"top_3_accuracy", "top_5_accuracy", "log_loss", "brier", "ece"} == (
        with_them.keys() - without.keys()
    )
    assert without == {name: with_them[name] for name in without}


def test_the_areas_look_for_the_positive_label() -> None:
    gold, predicted, scores = _classified(["no", "yes"])
    found = classification_metrics(gold, predicted, ["no", "yes"], scores, positive="yes")
    margin = scores[:, 1] - scores[:, 0]
    assert found["roc_auc"].value == pytest.approx(
        roc_auc([g == "yes" for g in gold], margin).value
    )
    assert found["pr_auc"].value == pytest.approx(
        average_precision_score([g == "yes" for g in gold], margin)
    )
    other = classification_metrics(gold, predicted, ["no", "yes"], scores, positive="no")
    assert other["roc_auc"].value == pytest.approx(found["roc_auc"].value)
    assert other["pr_auc"].value != pytest.approx(found["pr_auc"].value)


@pytest.mark.parametrize("labels", [["ham", "spam"], ["spam", "ham"]])
def test_a_random_score_of_rare_spam_is_no_success(labels: list[str]) -> None:
    """Of ham, which 95 % of rows are, it would have a PR-AUC of 0.95."""
    rng = np.random.default_rng(0)
    gold = ["spam"] * 100 + ["ham"] * 1900
    scores = np.log(rng.dirichlet([1, 1], len(gold)))
    found = classification_metrics(gold, gold, labels, scores)
    assert found["pr_auc"].value == pytest.approx(0.05, abs=0.02)
    expected = average_precision_score([g == "spam" for g in gold], scores[:, labels.index("spam")])
    assert found["pr_auc"].value == pytest.approx(expected)


def test_of_equally_frequent_labels_the_later_one_is_looked_for() -> None:
    assert rarer_label(["no", "yes"], ["no", "yes"]) == "yes"


def test_one_gold_label_has_no_area_under_a_curve() -> None:
    found = classification_metrics(["a"] * 3, ["a", "a", "b"], ["a", "b"], np.zeros((3, 2)))
    assert not {"roc_auc", "pr_auc"} & found.keys()
    assert found["balanced_accuracy"].value == pytest.approx(2 / 3)


def test_a_bound_of_the_unvisited_mass_lowers_the_confidence() -> None:
    gold = ["a", "b", "c"]
    scores = np.where(np.eye(3) > 0, 0.0, NAN)
    loose, tight = (
        classification_metrics(gold, gold, ["a", "b", "c"], scores, unvisited=u)
        for u in (0.1, 1e-4)
    )
    assert loose["log_loss"].value == pytest.approx(-np.log(0.9))
    assert tight["log_loss"].value == pytest.approx(-np.log(1 - 1e-4))
    assert loose["accuracy"] == tight["accuracy"]


def test_questions_may_lack_options() -> None:
    scores = np.array([[1.0, 0.0, NAN], [0.0, 1.0, 2.0]])
    found = multiple_choice_metrics(["A", "C"], ["A", "C"], "ABC", scores)
    expected = -np.log([np.e / (np.e + 1), np.e**2 / (1 + np.e + np.e**2)]).mean()
    assert found["log_loss"].value == pytest.approx(expected)
    assert found["position_bias"].value == 0


def test_answers_that_are_all_off_list_have_no_position() -> None:
    found = multiple_choice_metrics(["A", "B"], [None, None], "AB")
    assert found["accuracy"].value == 0
    assert "position_bias" not in found


def test_generated_answers_are_parsed() -> None:
    found = generated_label_metrics(["A", "B", "A"], ["a", "It is B", "C"], "ABC", options=[2] * 3)
    assert found["accuracy"] == accuracy("AAA", "AAB")  # type: ignore[arg-type]
    assert found["off_list_rate"].value == pytest.approx(1 / 3)
    labels = generated_label_metrics(["one two"], ["One-two!"], ["one two", "three"])
    assert labels["accuracy"].value == 1


def test_metrics_and_calibration_load_without_torch_and_the_slow_libraries() -> None:
    slow = ["torch", "transformers", "datasets", "scipy.stats", "sklearn", "nltk", "sacrebleu"]
    code = (
        "import sys, multitask.metrics.kinds, multitask.metrics.comparison, multitask.calibration\n"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
