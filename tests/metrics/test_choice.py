"""Questions answered by letter, by text, and with their options in every cyclic order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from multitask.metrics import METRICS, Predictions, compute
from multitask.metrics.choice import averaged, by_option, cyclic_orders, position_bias
from multitask.metrics.intervals import Interval, wilson

LETTERS = "ABCDE"
ROTATED = [
    METRICS[name]
    for name in ("rotated_accuracy", "averaged_accuracy", "consistency", "position_bias")
]


def _asked(liking: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Scores of a model that likes options and positions, in every rotation."""
    return liking[cyclic_orders(len(liking))] + positions


def _rotated(
    tables: Sequence[object], gold: Sequence[int], choices: list[list[str]] | None = None
) -> dict[str, Interval]:
    letters = [LETTERS[i] for i in gold]
    rows = Predictions(letters, letters, LETTERS, rotated=tables, choices=choices)
    return compute(rows, ROTATED)


def test_every_option_is_once_at_every_position() -> None:
    orders = cyclic_orders(5)
    assert orders[0].tolist() == [0, 1, 2, 3, 4]
    for lines in (orders, orders.T):
        assert all(sorted(line) == [0, 1, 2, 3, 4] for line in lines.tolist())


@given(st.integers(1, 6).flatmap(lambda n: arrays(float, n, elements=st.floats(-9, 9))))
def test_scores_come_back_to_their_options(liking: np.ndarray) -> None:
    found = by_option(_asked(liking, np.zeros(len(liking))))
    assert found.tolist() == [liking.tolist()] * len(liking)


@given(arrays(float, 4, elements=st.floats(-5, 5)), arrays(float, 4, elements=st.floats(-5, 5)))
def test_averaging_takes_a_liking_for_positions_out(
    liking: np.ndarray, positions: np.ndarray
) -> None:
    expected = np.exp(liking) / np.exp(liking).sum()
    assert np.exp(averaged(by_option(_asked(liking, positions)))) == pytest.approx(expected)


def test_a_model_that_sees_only_positions() -> None:
    found = _rotated([_asked(np.zeros(4), np.array([1.0, 0, 0, 0]))] * 40, [0, 1, 2, 3] * 10)
    assert found["consistency"].value == 0
    assert found["rotated_accuracy"].value == 0.25
    assert found["position_bias"].value == 0.75  # all answers at the first of four positions
    assert found["position_bias"].low > 0.5


def test_a_model_that_sees_only_options() -> None:
    rng = np.random.default_rng(0)
    likings = rng.normal(size=(40, 4))
    gold = rng.integers(0, 4, 40)
    found = _rotated([_asked(one, np.zeros(4)) for one in likings], gold.tolist())
    right = int((likings.argmax(axis=1) == gold).sum())
    assert found["consistency"] == wilson(40, 40)
    assert found["averaged_accuracy"] == wilson(right, 40)
    assert found["rotated_accuracy"].value == pytest.approx(right / 40)
    assert (found["position_bias"].value, found["position_bias"].low) == (0, 0)


def test_averaging_rights_answers_that_a_position_spoils() -> None:
    gold = [0, 1, 2, 3] * 10
    found = _rotated([_asked(np.eye(4)[g], np.array([1.5, 0, 0, 0])) for g in gold], gold)
    assert found["averaged_accuracy"].value == 1
    assert found["rotated_accuracy"].value < 0.5


def test_a_repeated_option_text_is_one_content_but_two_options() -> None:
    scores = [[[5.0, 0, 0], [0, 0, 5.0], [0, 0, 5.0]]]  # options 0, 0, and 1
    found = _rotated(scores, [0], [["same", "same", "other"]])
    assert found["consistency"].value == 1
    assert _rotated(scores, [0])["consistency"].value == 0
    assert found["rotated_accuracy"].value == pytest.approx(2 / 3)


def test_questions_may_have_different_numbers_of_options() -> None:
    tables = [_asked(np.eye(n)[0], np.zeros(n)) for n in (2, 5, 3)]
    assert _rotated(tables, [0, 0, 0])["rotated_accuracy"].value == 1


def test_options_by_text_win_by_their_sum_or_per_character() -> None:
    """The long option loses by its sum and wins per character; equal texts go to the first."""
    rows = Predictions(
        ["B", "A"],
        ["B", "A"],
        "AB",
        by_letter=["B", None],
        text_scores=[[-2.0, -3.0], [-1.0, -1.0]],
        choices=[["no", "maybe so"], ["same", "same"]],
    )
    names = ("letter_accuracy", "text_accuracy", "text_accuracy_normalised")
    found = compute(rows, [METRICS[name] for name in names])
    assert [found[name].value for name in names] == [0.5, 0.5, 1.0]


@given(st.lists(st.tuples(st.sampled_from(LETTERS), st.sampled_from(LETTERS)), min_size=1))
def test_position_bias_is_half_the_sum_of_differences(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    found = position_bias(Predictions(gold, predicted, LETTERS))
    gaps = [abs(gold.count(x) - predicted.count(x)) for x in LETTERS]
    assert found is not None
    assert found.value == pytest.approx(sum(gaps) / 2 / len(pairs))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_off_list_answers_have_no_position() -> None:
    found = position_bias(Predictions(list("AB"), ["A", "?"], LETTERS))
    assert found is not None
    assert found.value == 0
    assert position_bias(Predictions(["A"], [None], LETTERS)) is None


@pytest.mark.parametrize(("towards_a", "truth"), [(0.25, 0.0), (0.7, 0.225)])
def test_the_interval_of_position_bias_holds_the_truth(towards_a: float, truth: float) -> None:
    # Half of the answers are errors, and go to the first of four positions with `towards_a`.
    rng = np.random.default_rng(0)
    others = (1 - towards_a) / 3
    held = 0
    for _ in range(100):
        gold = rng.integers(0, 4, 300)
        error = rng.choice(4, 300, p=[towards_a, others, others, others])
        predicted = np.where(rng.random(300) < 0.5, gold, error)
        letters = [[LETTERS[i] for i in column] for column in (gold, predicted)]
        found = position_bias(Predictions(*letters, LETTERS[:4]))
        assert found is not None
        held += found.low <= truth <= found.high
    assert held / 100 >= 0.9


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="not \\(options, options\\)"):
        by_option([[1.0, 2.0]])
    with pytest.raises(ValueError, match="question 0 has 2 options; gold is number 2"):
        _rotated([np.eye(2)], [2])
    with pytest.raises(ValueError, match="1 rows but 2 of rotated"):
        _rotated([np.eye(2)] * 2, [0])
