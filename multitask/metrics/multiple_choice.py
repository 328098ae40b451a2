"""Whether a model answers the question or the position: options in every cyclic order.

A question with n options is asked n times: in rotation r, position j shows option (j + r) mod n.
The model scores positions (letters); which option it means follows from the rotation. Options are
told apart by their place in the question, so that a repeated option text does no harm.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from multitask.metrics.counts import label_codes
from multitask.metrics.estimate import (
    RESAMPLES,
    Clusters,
    Estimate,
    Floats,
    Groups,
    Ints,
    cluster_codes,
    distance,
    resamples,
    share,
    wilson,
)
from multitask.metrics.probabilities import normalised


def cyclic_orders(options: int) -> Ints:
    """The cyclic orders of a question's options.

    Returns:
        Shape (rotations, positions): the option that each rotation shows at each position. Row 0
        is the order as given; every option is once at every position.
    """
    places = np.arange(options, dtype=np.int64)
    return (places[None] + places[:, None]) % options


def by_option(scores: npt.ArrayLike) -> Floats:
    """Scores of positions in every rotation, as scores of options.

    Args:
        scores: Shape (rotations, positions), in the order of :func:`cyclic_orders`.

    Returns:
        Scores of the same shape; columns are options.

    Raises:
        ValueError: There is not one rotation per option.
    """
    found = np.asarray(scores, dtype=np.float64)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not len(found):
        raise ValueError(f"scores of shape {found.shape}, not (options, options)")
    out = np.empty_like(found)
    np.put_along_axis(out, cyclic_orders(len(found)), found, axis=1)
    return out


def averaged(scores: npt.ArrayLike) -> Floats:
    """Each option's probability by the mean of its log-probabilities over the rotations.

    A model's liking for a position, as far as it adds to that position's log-score, meets every
    option once and cancels: the mean has none of it left. The mean of the probabilities themselves
    (Zheng et al., 2024, "Large language models are not robust multiple choice selectors") keeps
    some, since in cyclic orders an option always has the same neighbours. Arguments and errors as
    :func:`by_option`; an option that has no finite score in some rotation has probability 0.

    Returns:
        Probabilities of shape (options,).

    Raises:
        ValueError: Also when every option lacks a score in some rotation.
    """
    mean = normalised(by_option(scores)).mean(axis=0, keepdims=True)
    probabilities: Floats = np.exp(normalised(mean))[0]
    return probabilities


def rotation_metrics(
    scores: Sequence[npt.ArrayLike],
    gold: Sequence[int],
    *,
    contents: Sequence[Sequence[Hashable]] | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """What asking every question in all cyclic orders shows.

    Args:
        scores: Of each question, log-scores of positions: shape (rotations, positions).
        gold: Of each question, its right option, counted from 0 in the order as given.
        contents: Of each question, its option texts; default: all different.
        seed: Seeds the bootstrap.

    Returns:
        ``rotated_accuracy``: accuracy over all rotations, with questions as clusters;
        ``averaged_accuracy``: accuracy of the option with the highest averaged probability;
        ``consistency`` and ``position_bias``: see the functions of these names. Gold positions
        are even over the rotations, so position bias is not mixed up with where gold stands.

    Raises:
        ValueError: There are no questions, the sequences differ in length, a gold option is not
            one of its question's, or as :func:`by_option`.
    """
    if not len(scores) == len(gold) == len(gold if contents is None else contents):
        raise ValueError(f"{len(scores)} questions but {len(gold)} gold answers, or contents")
    answers, right, best, items = [], [], [], []
    gold_at, answered_at = [], []
    for question, (table, wanted) in enumerate(zip(scores, gold, strict=True)):
        options = by_option(table)
        count = len(options)
        if not 0 <= wanted < count:
            raise ValueError(f"question {question} has {count} options; gold is number {wanted}")
        texts = range(count) if contents is None else contents[question]
        chosen = options.argmax(axis=1)
        answers.append([texts[option] for option in chosen])
        right += (chosen == wanted).tolist()
        best.append(int(averaged(table).argmax()) == wanted)
        items += [question] * count
        rotation = np.arange(count)
        gold_at += [str(place) for place in (wanted - rotation) % count]
        answered_at += [str(place) for place in (chosen - rotation) % count]
    places = [str(place) for place in range(max(map(len, answers), default=0))]
    return {
        "rotated_accuracy": share(right, clusters=items, seed=seed),
        "averaged_accuracy": wilson(sum(best), len(best)),
        "consistency": consistency(answers),
        "position_bias": position_bias(gold_at, answered_at, places, clusters=items, seed=seed),
    }


def consistency(answers: Sequence[Sequence[Hashable]]) -> Estimate:
    """Share of questions that are answered with the same content in every order of the options.

    Args:
        answers: Of each question, the content of its answer in each order: give the option's text,
            where two options may share one, else its number.

    Returns:
        The share, with Wilson's interval over questions.

    Raises:
        ValueError: There are no questions.
    """
    return wilson(sum(len(set(found)) == 1 for found in answers), len(answers))


def position_bias(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    positions: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Total variation distance between the positions predicted and the gold ones, 0 to 1.

    Half the sum over positions of the difference in share: how much of all answers would have to
    move for the two to agree. Right answers add nothing to it. The interval allows for the
    distance being too large on few rows (:func:`~multitask.metrics.estimate.distance`); its
    lower end is 0 where errors towards a position are as frequent as errors away from it, up to
    chance (each item's gold and predicted positions exchanged at random).

    Args:
        gold: Gold position (letter) of every row.
        predicted: The predicted position; rows with an off-list answer are left out.
        positions: All positions.
        clusters: The question of every row, where it is asked several times.
        seed: Seeds the resampling.

    Raises:
        ValueError: No row has a position as its answer, or as
            :func:`~multitask.metrics.counts.label_codes`.
    """
    g, p = label_codes(gold, predicted, positions)
    rows = len(g)
    items = np.arange(rows) if clusters is None else cluster_codes(clusters, rows)
    listed = p < len(positions)
    g, p, items = g[listed], p[listed], items[listed]
    if not len(g):
        raise ValueError("no row has a position as its answer")
    from_gold, from_predicted = Groups(g, len(positions)), Groups(p, len(positions))

    def moved(weights: Floats) -> Floats:
        shift = from_predicted.sums(weights) - from_gold.sums(weights)
        total: Floats = np.abs(shift).sum(axis=1) / 2 / weights.sum(axis=1)
        return total

    value = float(moved(np.ones((1, len(g))))[0])
    kept = None if clusters is None else items.tolist()
    drawn = [moved(weights) for weights in resamples(len(g), clusters=kept, seed=seed)]
    return distance(value, np.concatenate(drawn), _exchanged(g, p, items, len(positions), seed))


def _exchanged(gold: Ints, predicted: Ints, items: Ints, positions: int, seed: int) -> Floats:
    """The distance with each item's gold and predicted positions exchanged at random."""
    codes = np.unique(items, return_inverse=True)[1]
    shift = np.zeros((int(codes.max()) + 1, positions))
    np.add.at(shift, (codes, predicted), 1.0)
    np.add.at(shift, (codes, gold), -1.0)
    shift = shift[shift.any(axis=1)]
    rng = np.random.default_rng([seed, 1])
    step = max(1, 4_000_000 // max(1, len(shift)))
    found = []
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        signs = rng.integers(0, 2, (size, len(shift))) * 2.0 - 1
        found.append(np.abs(signs @ shift).sum(axis=1) / 2 / len(gold))
    return np.concatenate(found)
