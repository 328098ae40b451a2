"""Options of multiple-choice rows: moving them, and checks that nothing gives the answer away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from multitask.data.fingerprint import Fingerprints, draw
from multitask.data.rows import Rows
from multitask.tasks import letter

# Below this, a dependence is reported: one false alarm in a thousand checks.
_ALARM = 0.001


def shuffle_options(examples: Rows, keys: Fingerprints, *, seed: int) -> Rows:
    """Move every row's options so that the gold answer is evenly spread over the positions.

    Rows with the same number of options take turns: among them, each position is gold equally
    often, give or take one. The turns and the other options' order follow from the rows'
    fingerprints.
    """
    order = np.argsort(draw(keys, seed), kind="stable")
    turns: Counter[int] = Counter()
    moved = list(examples)
    for place in order.tolist():
        example = examples[place]
        count = len(example.choices)
        if count < 2:
            continue
        target = turns[count] % count
        turns[count] += 1
        rng = np.random.default_rng([seed, int(keys[place] % np.uint64(2**63))])
        gold = ord(example.label) - ord("A")
        others = rng.permutation([i for i in range(count) if i != gold]).tolist()
        arrangement = [*others[:target], gold, *others[target:]]
        moved[place] = example._replace(
            choices=tuple(example.choices[i] for i in arrangement),
            label=letter(target),
        )
    return Rows.of(moved)


def uniform_p_value(gold: Sequence[str], labels: Sequence[str]) -> float:
    """Chance of positions this uneven if all were equally likely (Pearson's chi-squared test)."""
    counts = Counter(gold)
    observed = np.array([counts[label] for label in labels], dtype=float)
    expected = np.full(len(labels), observed.mean())
    return _chi_squared(observed, expected, freedom=len(labels) - 1)


def independence_p_value(templates: npt.ArrayLike, gold: Sequence[str]) -> float:
    """Chance of a dependence this strong between phrasing and answer (Pearson's chi-squared test).

    Answers that are expected fewer than five times per phrasing are left out, since the test's
    approximation does not hold for them; 1.0 where there is nothing to compare.
    """
    kinds, rows = np.unique(np.asarray(templates), return_inverse=True)
    counts = Counter(gold)
    common = sorted(answer for answer, n in counts.items() if n >= 5 * len(kinds))
    if len(kinds) < 2 or len(common) < 2:
        return 1.0
    column_of = dict.fromkeys(counts, -1) | {answer: i for i, answer in enumerate(common)}
    columns = np.fromiter(map(column_of.__getitem__, gold), dtype=np.int64, count=len(gold))
    cells = (rows * len(common) + columns)[columns >= 0]
    table = np.bincount(cells, minlength=len(kinds) * len(common)).reshape(-1, len(common))
    if (table.sum(axis=1) == 0).any():
        return 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return _chi_squared(table, expected, freedom=(len(kinds) - 1) * (len(common) - 1))


def _chi_squared(observed: Any, expected: Any, *, freedom: int) -> float:
    """Upper tail of the chi-squared distribution at Pearson's statistic."""
    from scipy.special import chdtrc  # scipy.stats would take a second to import

    return float(chdtrc(freedom, ((observed - expected) ** 2 / expected).sum()))


def alarms(p_values: dict[str, float]) -> list[str]:
    """The names of the checks that fail."""
    return [name for name, p in p_values.items() if p < _ALARM]
