"""Whether a model answers the question or the position: options in every cyclic order.

A question with n options is asked n times: in rotation r, position j shows option (j + r) mod n.
The model scores positions (letters); which option it means follows from the rotation. Options are
told apart by their place in the question, so that a repeated option text does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from multitask.metrics.intervals import (
    Bools,
    Floats,
    Groups,
    Interval,
    Ints,
    Items,
    distance,
    item_codes,
    resamples,
    share,
    simulated,
)
from multitask.metrics.registry import Predictions, log_softmax, metric

_CHOICE = ("multiple_choice",)


@metric(
    name="letter_accuracy", title="Accuracy by option letter", kinds=_CHOICE, needs=["by_letter"]
)
def letter_accuracy(predictions: Predictions) -> Bools:
    """Share of questions that are answered right when the option's letter is asked for."""
    pairs = zip(predictions.gold, predictions.by_letter or (), strict=True)
    return np.array([gold == answer for gold, answer in pairs], dtype=np.bool_)


@metric(
    name="text_accuracy",
    title="Accuracy by option text",
    kinds=_CHOICE,
    needs=["text_scores", "choices"],
)
def text_accuracy(predictions: Predictions) -> Bools:
    """Share of questions whose likeliest option text is the right one.

    Of options with the same text the first is taken, whichever is gold: only the letter tells
    them apart.
    """
    return _by_text(predictions, per_character=False)


@metric(
    name="text_accuracy_normalised",
    title="Accuracy by option text, per character",
    kinds=_CHOICE,
    needs=["text_scores", "choices"],
)
def text_accuracy_normalised(predictions: Predictions) -> Bools:
    """As accuracy by option text, with log-likelihoods divided by the text's characters.

    Long options have low log-likelihoods for their length alone: so divided (as
    lm-evaluation-harness does for ``acc_norm``), they can win.
    """
    return _by_text(predictions, per_character=True)


def _gold_places(predictions: Predictions) -> Ints:
    return np.array([ord(letter) - ord("A") for letter in predictions.gold], dtype=np.int64)


def _by_text(predictions: Predictions, *, per_character: bool) -> Bools:
    best = []
    for scores, texts in zip(predictions.text_scores or (), predictions.choices or (), strict=True):
        lengths = [max(1, len(text)) if per_character else 1 for text in texts]
        best.append(int((np.asarray(scores, dtype=np.float64) / lengths).argmax()))
    right: Bools = np.array(best) == _gold_places(predictions)
    return right


def cyclic_orders(options: int) -> Ints:
    """The cyclic orders of a question's options.

    Returns:
        Shape (rotations, positions): the option that each rotation shows at each position. Row 0
        is the order as given; every option is once at every position.
    """
    places = np.arange(options, dtype=np.int64)
    return (places[None] + places[:, None]) % options


def by_option(scores: npt.ArrayLike) -> Floats:
    """Scores of positions in every rotation, as scores of options: (rotations, options).

    Raises:
        ValueError: There is not one rotation per option.
    """
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not len(found):
        raise ValueError(f"scores of shape {found.shape}, not (options, options)")
    out = np.empty_like(found)
    np.put_along_axis(out, cyclic_orders(len(found)), found, axis=1)
    return out


def averaged(options: Floats) -> Floats:
    """Each option's log-probability, averaged over the rotations and normalised anew.

    A model's liking for a position, as far as it adds to that position's log-score, meets every
    option once and cancels: the mean has none of it left. The mean of the probabilities themselves
    (Zheng et al., 2024, "Large language models are not robust multiple choice selectors") keeps
    some, since in cyclic orders an option always has the same neighbours.

    Args:
        options: Scores of :func:`by_option`; an option that has no finite score in some rotation
            has probability 0.

    Raises:
        ValueError: Every option lacks a score in some rotation.
    """
    found: Floats = log_softmax(log_softmax(options).mean(axis=0, keepdims=True))[0]
    return found


@dataclass(frozen=True)
class _Rotated:
    """All questions in all cyclic orders, a row a rotation but for the last two."""

    right: list[bool]
    items: Items
    gold: Ints
    answered: Ints
    best: list[bool]
    same: list[bool]


@lru_cache(maxsize=1)
def _rotated(predictions: Predictions) -> _Rotated:
    items: list[object] = []
    right, gold, answered, best, same = [], [], [], [], []
    for question, (table, wanted) in enumerate(
        zip(predictions.rotated or (), _gold_places(predictions).tolist(), strict=True)
    ):
        options = by_option(table)
        count = len(options)
        if not 0 <= wanted < count:
            raise ValueError(f"question {question} has {count} options; gold is number {wanted}")
        chosen = options.argmax(axis=1)
        texts = range(count) if predictions.choices is None else predictions.choices[question]
        same.append(len({texts[option] for option in chosen}) == 1)
        best.append(int(averaged(options).argmax()) == wanted)
        right += (chosen == wanted).tolist()
        items += [question if predictions.items is None else predictions.items[question]] * count
        gold += ((wanted - np.arange(count)) % count).tolist()
        answered += ((chosen - np.arange(count)) % count).tolist()
    return _Rotated(right, items, np.array(gold), np.array(answered), best, same)


@metric(
    name="rotated_accuracy",
    title="Accuracy over all option orders",
    kinds=_CHOICE,
    needs=["rotated"],
)
def rotated_accuracy(predictions: Predictions) -> Interval:
    """Accuracy over all rotations of all questions."""
    found = _rotated(predictions)
    return share(found.right, found.items)


@metric(
    name="averaged_accuracy",
    title="Accuracy, averaged over option orders",
    kinds=_CHOICE,
    needs=["rotated"],
)
def averaged_accuracy(predictions: Predictions) -> Bools:
    """Accuracy of the option with the highest log-probability, averaged over all orders."""
    return np.array(_rotated(predictions).best)


@metric(
    name="consistency",
    title="Consistency over option orders",
    kinds=_CHOICE,
    needs=["rotated"],
)
def consistency(predictions: Predictions) -> Bools:
    """Share of questions that are answered with the same text in every order of the options."""
    return np.array(_rotated(predictions).same)


@metric(name="position_bias", title="Position bias", higher_is_better=False, kinds=_CHOICE)
def position_bias(predictions: Predictions) -> Interval | None:
    """Total variation distance between the positions predicted and the gold ones, 0 to 1.

    Half the sum over positions of the difference in share: how much of all answers would have to
    move for the two to agree. Right answers add nothing to it, off-list ones are left out. Measured
    over all rotations where questions were asked so: gold is at every position equally often then.

    The interval allows for the distance being too large on few rows
    (:func:`~multitask.metrics.intervals.distance`); its lower end is 0 where errors towards a
    position are as frequent as errors away from it, up to chance (each item's gold and predicted
    positions exchanged at random).
    """
    if predictions.rotated is not None:
        asked = _rotated(predictions)
        return _moved(asked.gold, asked.answered, asked.items)
    listed = predictions.predicted_codes < len(predictions.labels)
    if not listed.any():
        return None
    items = predictions.items
    kept = None if items is None else [items[i] for i in np.flatnonzero(listed)]
    return _moved(predictions.gold_codes[listed], predictions.predicted_codes[listed], kept)


def _moved(gold: Ints, predicted: Ints, items: Items | None) -> Interval:
    rows, positions = len(gold), int(max(gold.max(), predicted.max())) + 1
    from_gold, from_predicted = Groups(gold, positions), Groups(predicted, positions)

    def moved(weights: Floats) -> Floats:
        shift = from_predicted.sums(weights) - from_gold.sums(weights)
        total: Floats = np.abs(shift).sum(axis=1) / 2 / weights.sum(axis=1)
        return total

    codes = np.arange(rows) if items is None else item_codes(items, rows)
    shift = np.zeros((int(codes.max()) + 1, positions))
    np.add.at(shift, (codes, predicted), 1.0)
    np.add.at(shift, (codes, gold), -1.0)
    shift = shift[shift.any(axis=1)]

    def exchanged(rng: np.random.Generator, count: int) -> Floats:
        signs = rng.integers(0, 2, (count, len(shift))) * 2.0 - 1
        total: Floats = np.abs(signs @ shift).sum(axis=1) / 2 / rows
        return total

    value = float(moved(np.ones((1, rows)))[0])
    draws = np.concatenate([moved(weights) for weights in resamples(rows, items)])
    return distance(value, draws, simulated(exchanged, len(shift)))
