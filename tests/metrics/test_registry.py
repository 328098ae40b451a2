"""The registry: what a metric may return, and the intervals that it gets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from multitask.metrics import METRICS, Confusion, Interval, Metric, Predictions, Statistic, metric
from multitask.metrics.__main__ import table
from multitask.metrics.intervals import wilson
from multitask.metrics.registry import compute, metrics_of
from multitask.tasks import KINDS, Kind

NUMBERS = np.random.default_rng(0).exponential(size=60)
GOLD = np.random.default_rng(1).choice(list("ab"), 60).tolist()
ROWS = Predictions(GOLD, ["a"] * 60, "ab")


@pytest.fixture
def registry() -> Iterator[None]:
    known = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(known)


def _metric(function: object, **more: object) -> Metric:
    made = metric(name="mine", title="Mine", **more)(function)  # type: ignore[arg-type]
    del METRICS["mine"]
    return made


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_each_kind_has_its_headline_first(kind: Kind) -> None:
    assert metrics_of(kind.name)[0].name == kind.headline


def test_every_metric_says_what_it_is() -> None:
    for name, known in METRICS.items():
        assert known.name == name
        assert known.title
        assert known.function.__doc__
        assert known.unit == "share" or not known.is_share


def test_the_page_of_metrics_is_that_of_the_registry() -> None:
    """Else run ``python -m multitask.metrics > docs/metrics.md``."""
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == table()


def test_an_own_metric_need_not_be_defined_on_every_resample() -> None:
    rare = Predictions(["a"] * 3 + ["b"] * 60, ["a"] * 63, "ab")
    gold = _metric(lambda p: np.array([x == "a" for x in p.predicted])[np.array(p.gold) == "a"])
    mean = _metric(lambda p: gold.function(p).mean())
    assert mean(rare) == Interval(1.0, 1.0, 1.0)
    assert mean(Predictions(["b"], ["b"], "ab")) is None


def test_booleans_are_a_share_with_wilsons_interval() -> None:
    assert _metric(lambda p: np.array([g == "a" for g in p.gold]))(ROWS) == (
        wilson(GOLD.count("a"), 60)
    )


def _same(one: Interval | None, other: Interval | None) -> None:
    assert one is not None
    assert other is not None
    assert one.record() == pytest.approx(other.record())


def test_a_mean_by_rows_by_weights_and_by_recomputing_has_one_interval() -> None:
    rows = Predictions(GOLD, NUMBERS, "ab")
    by_rows = _metric(lambda p: p.predicted)(rows)
    by_weights = _metric(lambda _: Statistic(lambda w: w @ NUMBERS / w.sum(axis=1)))(rows)
    recomputed = _metric(lambda p: float(p.predicted.mean()))(rows)
    _same(by_rows, by_weights)
    _same(by_rows, recomputed)
    theirs = scipy_bootstrap((NUMBERS,), np.mean, method="percentile", rng=0).confidence_interval
    assert by_rows is not None
    assert (by_rows.low, by_rows.high) == pytest.approx((theirs.low, theirs.high), rel=0.05)


def test_repeated_rows_are_resampled_by_item_whatever_a_metric_returns() -> None:
    rows = Predictions(GOLD * 4, np.tile(NUMBERS, 4), "ab", items=list(range(60)) * 4)
    alone = _metric(lambda p: p.predicted)(Predictions(GOLD, NUMBERS, "ab"))
    for function in (
        lambda p: p.predicted,
        lambda p: float(p.predicted.mean()),
        lambda p: Statistic(lambda w: w @ p.predicted / w.sum(axis=1)),
    ):
        _same(_metric(function)(rows), alone)


def test_a_function_of_the_confusion_matrix_is_that_of_its_rows() -> None:
    def recall_of_a(counts: Confusion) -> np.ndarray:
        return counts.recall[:, 0]

    found = _metric(recall_of_a, of="confusion")(ROWS)
    assert found == Interval(1.0, 1.0, 1.0)


def test_an_interval_is_taken_and_none_is_left_out() -> None:
    own = Interval(0.5, 0.1, 0.9)
    assert _metric(lambda _: own)(ROWS) == own
    assert _metric(lambda _: None)(ROWS) is None
    assert _metric(lambda _: 1 / 0, needs=["log_probs"])(ROWS) is None


def test_the_order_is_that_of_the_choice_and_results_are_json() -> None:
    chosen = [METRICS[name] for name in ("macro_f1", "accuracy", "mcc")]
    found = compute(ROWS, chosen)
    assert list(found) == ["macro_f1", "accuracy", "mcc"]
    for interval in found.values():
        assert json.loads(json.dumps(interval.record(), allow_nan=False)).keys() == {
            "value", "low", "high",
        }  # fmt: skip


def test_probabilities_need_log_probabilities() -> None:
    scored = Predictions(GOLD, ["a"] * 60, "ab", np.zeros((60, 2)))
    with_them = compute(scored, metrics_of("classification"))
    without = compute(ROWS, metrics_of("classification"))
    assert with_them.keys() - without.keys() == {"log_loss", "brier", "ece", "roc_auc", "pr_auc"}
    assert without == {name: with_them[name] for name in without}


@pytest.mark.usefixtures("registry")
def test_names_are_taken_once_and_needs_are_known() -> None:
    with pytest.raises(ValueError, match="there is a metric 'accuracy' already"):
        metric(name="accuracy", title="Mine")(lambda _: None)
    with pytest.raises(ValueError, match="needs unknown fields: logits"):
        metric(name="mine", title="Mine", needs=["logits"])
    for _ in range(2):  # a module that is imported again
        metric(name="mine", title="Mine")(_three_numbers)
    with pytest.raises(ValueError, match="'mine' gives 3 numbers for 60 rows"):
        METRICS["mine"](ROWS)


def _three_numbers(_: Predictions) -> np.ndarray:
    return np.zeros(3)


@pytest.mark.parametrize(
    ("gold", "predicted", "labels", "expected"),
    [
        ([], [], "ab", "no rows"),
        (["a"], [], "ab", "1 gold answers but 0"),
        (["x"], ["a"], "ab", "not in the label space"),
        (["a"], ["a"], "aa", "names a label twice"),
    ],
)
def test_wrong_predictions_are_refused(
    gold: list[str], predicted: list[str], labels: str, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        compute(Predictions(gold, predicted, labels), [METRICS["macro_f1"]])


def test_metrics_and_calibration_load_without_torch_and_the_slow_libraries() -> None:
    slow = ["torch", "transformers", "datasets", "scipy", "sklearn", "nltk", "sacrebleu"]
    code = (
        "import sys, multitask.metrics.paired, multitask.evaluation.calibration\n"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
