"""Reliability bins and expected calibration error."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.metrics.reliability import BINS, expected_calibration_error, reliability_bins

rows = st.lists(
    st.tuples(st.sampled_from([0.2, 0.5, 0.5000001, 0.9, 1.0]), st.booleans()),
    min_size=1,
    max_size=40,
)


def _plain(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """ECE by its definition, for different confidences."""
    order = np.array_split(np.argsort(confidence), bins)
    gaps = [len(i) * abs(confidence[i].mean() - correct[i].mean()) for i in order if len(i)]
    return float(sum(gaps) / len(confidence))


def test_different_confidences_give_the_textbook_number() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(150)
    correct = rng.random(150) < confidence**2
    found = expected_calibration_error(confidence, correct, bins=15).value
    assert found == pytest.approx(_plain(confidence, correct, 15))


@given(rows, st.randoms(), st.integers(1, 20))
def test_the_order_of_rows_does_not_matter(
    pairs: list[tuple[float, bool]], random: object, bins: int
) -> None:
    mixed = list(pairs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, two = (
        expected_calibration_error([c for c, _ in some], [r for _, r in some], bins=bins)
        for some in (pairs, mixed)
    )
    assert one.value == pytest.approx(two.value)


@given(rows, st.booleans())
def test_bins_and_error_agree(pairs: list[tuple[float, bool]], clustered: bool) -> None:
    confidence, correct = [c for c, _ in pairs], [r for _, r in pairs]
    clusters = [i // 2 for i in range(len(pairs))] if clustered else None
    bins = reliability_bins(confidence, correct, bins=BINS, clusters=clusters)
    estimate = expected_calibration_error(confidence, correct, clusters=clusters)
    assert sum(b.count for b in bins) == len(pairs)
    gaps = [b.count * abs(b.confidence - b.accuracy.value) for b in bins]
    assert estimate.value == pytest.approx(sum(gaps) / len(pairs))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    for one, next_ in pairwise(bins):
        assert one.high < next_.low  # equal confidences are never divided


@pytest.mark.parametrize(("exponent", "least"), [(1.0, 0.95), (1.3, 0.9), (2.0, 0.9)])
def test_the_interval_holds_the_truth(exponent: float, least: float) -> None:
    # The answer is right with probability confidence^exponent: 1 is calibrated.
    rng = np.random.default_rng(0)
    many = np.linspace(0.5, 1, 150_001)
    truth = float(np.mean(many - many**exponent))
    held = 0
    for _ in range(100):
        confidence = rng.uniform(0.5, 1, 400)
        correct = rng.random(400) < confidence**exponent
        estimate = expected_calibration_error(confidence, correct)
        held += estimate.low <= truth <= estimate.high
    assert held / 100 >= least


def test_wrong_input_is_refused() -> None:
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
