"""Options of multiple-choice rows: moving them, and checks that nothing gives the answer away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from multitask.data.normal_form import Fingerprints, draw
from multitask.tasks import Example, letter

# Below this, a dependence is reported: one false alarm in a thousand checks.
_ALARM = 0.001


def shuffle_options(examples: Sequence[Example], keys: Fingerprints, *, seed: int) -> list[Example]:
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
        moved[place] = replace(
            example,
            choices=tuple(example.choices[i] for i in arrangement),
            label=letter(target),
        )
    return moved


def uniform_p_value(gold: Sequence[str], labels: Sequence[str]) -> float:
    """Chance of positions this uneven if all were equally likely (chi-squared test)."""
    from scipy.stats import chisquare

    counts = Counter(gold)
    return float(chisquare([counts[label] for label in labels]).pvalue)


def independence_p_value(templates: Sequence[str], gold: Sequence[str]) -> float:
    """Chance of a dependence this strong between phrasing and answer (chi-squared test).

    Answers seen fewer than five times per phrasing are pooled, since the test's approximation
    does not hold for them; 1.0 where there is nothing to compare.
    """
    from scipy.stats import chi2_contingency

    kinds = sorted(set(templates))
    common = [x for x, n in Counter(gold).items() if n >= 5 * len(kinds)]
    if len(kinds) < 2 or not common:
        return 1.0
    columns = {answer: i for i, answer in enumerate(sorted(common))}
    table: Any = np.zeros((len(kinds), len(columns) + 1))
    for template, answer in zip(templates, gold, strict=True):
        table[kinds.index(template), columns.get(answer, len(columns))] += 1
    table = table[:, table.sum(axis=0) >= 5 * len(kinds)]
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return 1.0
    return float(chi2_contingency(table).pvalue)


def alarms(p_values: dict[str, float]) -> list[str]:
    """The names of the checks that fail."""
    return [name for name, p in p_values.items() if p < _ALARM]
