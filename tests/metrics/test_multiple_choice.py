"""Questions asked with their options in every cyclic order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from multitask.metrics.estimate import wilson
from multitask.metrics.multiple_choice import (
    averaged,
    by_option,
    consistency,
    cyclic_orders,
    position_bias,
    rotation_metrics,
)

LETTERS = "ABCDE"


def _asked(liking: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Scores of a model that likes options and positions, in every rotation."""
    return liking[cyclic_orders(len(liking))] + positions


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
    assert averaged(_asked(liking, positions)) == pytest.approx(expected)


def test_a_model_that_sees_only_positions() -> None:
    gold = [0, 1, 2, 3] * 10
    scores = [_asked(np.zeros(4), np.array([1.0, 0, 0, 0]))] * 40
    found = rotation_metrics(scores, gold)
    assert found["consistency"].value == 0
    assert found["rotated_accuracy"].value == 0.25
    assert found["position_bias"].value == 0.75  # all answers at the first of four positions
    assert found["position_bias"].low > 0.5


def test_a_model_that_sees_only_options() -> None:
    rng = np.random.default_rng(0)
    likings = rng.normal(size=(40, 4))
    gold = rng.integers(0, 4, 40)
    found = rotation_metrics([_asked(one, np.zeros(4)) for one in likings], gold.tolist())
    right = int((likings.argmax(axis=1) == gold).sum())
    assert found["consistency"] == wilson(40, 40)
    assert found["averaged_accuracy"] == wilson(right, 40)
    assert found["rotated_accuracy"].value == pytest.approx(right / 40)
    assert (found["position_bias"].value, found["position_bias"].low) == (0, 0)


def test_averaging_rights_answers_that_a_position_spoils() -> None:
    gold = [0, 1, 2, 3] * 10
    scores = [_asked(np.eye(4)[g], np.array([1.5, 0, 0, 0])) for g in gold]
    found = rotation_metrics(scores, gold)
    assert found["averaged_accuracy"].value == 1
    assert found["rotated_accuracy"].value < 0.5


def test_a_repeated_option_text_is_one_content_but_two_options() -> None:
    scores = [[[5.0, 0, 0], [0, 0, 5.0], [0, 0, 5.0]]]  # options 0, 0, and 1
    texts = [["same", "same", "other"]]
    assert rotation_metrics(scores, [0], contents=texts)["consistency"].value == 1
    assert rotation_metrics(scores, [0])["consistency"].value == 0
    assert rotation_metrics(scores, [0], contents=texts)["rotated_accuracy"].value == (
        pytest.approx(2 / 3)
    )


def test_questions_may_have_different_numbers_of_options() -> None:
    scores = [_asked(np.eye(n)[0], np.zeros(n)) for n in (2, 5, 3)]
    assert rotation_metrics(scores, [0, 0, 0])["rotated_accuracy"].value == 1


def test_consistency_is_the_share_of_questions_with_one_answer() -> None:
    assert consistency(["aaa", "aab", "bbb", "abc"]) == wilson(2, 4)


@given(st.lists(st.tuples(st.sampled_from(LETTERS), st.sampled_from(LETTERS)), min_size=1))
def test_position_bias_is_half_the_sum_of_differences(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    found = position_bias(gold, predicted, LETTERS)
    gaps = [abs(gold.count(x) - predicted.count(x)) for x in LETTERS]
    assert found.value == pytest.approx(sum(gaps) / 2 / len(pairs))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_off_list_answers_have_no_position() -> None:
    assert position_bias(list("AB"), ["A", "?"], LETTERS).value == 0
    with pytest.raises(ValueError, match="no row has a position"):
        position_bias(["A"], ["?"], LETTERS)


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
        found = position_bias(
            [LETTERS[i] for i in gold], [LETTERS[i] for i in predicted], LETTERS[:4]
        )
        held += found.low <= truth <= found.high
    assert held / 100 >= 0.9


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="not \\(options, options\\)"):
        by_option([[1.0, 2.0]])
    with pytest.raises(ValueError, match="question 0 has 2 options; gold is number 2"):
        rotation_metrics([np.eye(2)], [2])
    with pytest.raises(ValueError, match="1 questions but 2"):
        rotation_metrics([np.eye(2)], [0, 1])
    with pytest.raises(ValueError, match="no rows"):
        rotation_metrics([], [])
