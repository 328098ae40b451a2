"""What is reported by default is what the scores of all labels would give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from multitask.evaluation.requests import Purpose, Settings, TaskRequests
from multitask.evaluation.results import fit_calibration, task_results
from multitask.evaluation.runner import TaskScores
from multitask.metrics.probability import BINS, TOP_K
from multitask.scoring.label_tree import Forest, Search, build_trie
from multitask.scoring.scorer import Scores
from multitask.tasks import KINDS, Task, Template

WORDS = ["card", "cash", "top", "fee", "pin"]
LABELS = [f"{a}_{b}_{c}" for a in WORDS for b in WORDS for c in WORDS][:77]
TASK = Task(
    "b", KINDS["classification"], tuple(LABELS), (Template("t", "{{ text }}", "{{ label }}"),)
)
ROWS = 400


class Model:
    """What a language model says that knows the labels and gives every token's rest, ``leak``, to
    other texts: the probability of a branch is that of its labels together."""

    def __init__(self, rng: np.random.Generator, leak: float) -> None:
        tokens = {word: i for i, word in enumerate(WORDS)}
        answers = [(*(tokens[w] for w in label.split("_")), 99) for label in LABELS]
        self.trie, self.keep = build_trie(answers), np.log1p(-leak)
        self.gold = rng.integers(0, len(LABELS), ROWS)
        # Some rows are sure, some are not, and one in eight looks like another label.
        logits = rng.normal(size=(ROWS, len(LABELS))) * rng.uniform(1.5, 3, (ROWS, 1))
        seen = np.where(rng.random(ROWS) < 1 / 8, rng.integers(0, len(LABELS), ROWS), self.gold)
        logits[np.arange(ROWS), seen] += rng.uniform(4, 14, ROWS)
        logits[np.arange(ROWS), self.gold] += rng.uniform(0, 6, ROWS)
        share = np.exp(logits - logits.max(1, keepdims=True))
        mass = np.zeros((ROWS, len(self.trie.nodes)))
        mass[:, self.trie.leaf_of] = share / share.sum(1, keepdims=True)
        for node in range(len(self.trie.nodes) - 1, 0, -1):
            mass[:, self.trie.nodes["parent"][node]] += mass[:, node]
        self.mass = np.log(mass)

    def scores(self, unvisited: float) -> Scores:
        search = Search(
            Forest([self.trie] * ROWS), max_residual=unvisited,
            gold=self.trie.leaf_of[self.gold] if unvisited else None, ranks=max(TOP_K),
        )  # fmt: skip
        query, node = np.arange(ROWS), np.zeros(ROWS, np.int64)
        while len(query):
            targets = search.targets(query, node)
            row, parent = query[targets.pair], self.trie.nodes["parent"][targets.node]
            begins = self.mass[row, targets.node] - self.mass[row, parent]
            search.absorb(query, node, targets, self.keep + np.where(targets.inner, 0.0, begins))
            query, node = search.select(64) if len(search.active) else ((), ())
        scores, shares = search.scores[:, self.trie.leaf_of], search.shares()[:, self.trie.leaf_of]
        residual, scored = search.residual(), np.isfinite(scores)
        return Scores(
            np.where(scored, scores, shares), scored, residual,
            np.nanargmax(scores, 1), np.zeros(ROWS, np.int64),
        )  # fmt: skip


def report(models: tuple[Model, Model], settings: Settings) -> dict[str, Any]:
    """What results.json says of a task."""
    found = {}
    for model, purpose in zip(models, (Purpose.SCORES, Purpose.VALIDATION), strict=True):
        rows = [
            {"id": f"{purpose}-{i}", "label": LABELS[gold], "template": "t", "messages": []}
            for i, gold in enumerate(model.gold)
        ]
        requests = TaskRequests(TASK, purpose, rows)
        found[purpose] = TaskScores(requests, model.scores(settings.max_residual), 1.0)
    calibration = fit_calibration(found, settings.target_precision)
    return task_results(TASK, found, settings, calibration)


def figures(record: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number with its place, but times and the bound itself."""
    if isinstance(record, dict):
        for key, value in record.items():
            if key not in ("seconds", "part_seconds", "residual_mass"):
                yield from figures(value, f"{path}/{key}")
    elif isinstance(record, list):
        for i, value in enumerate(record):
            yield from figures(value, f"{path}/{i}")
    elif isinstance(record, (int, float)):
        yield path, record


@pytest.mark.parametrize("leak", [0.0, 0.005, 0.05])
def test_no_reported_figure_moves_by_a_thousandth(leak: float) -> None:
    models = Model(np.random.default_rng(0), leak), Model(np.random.default_rng(1), leak)
    quick, exact = report(models, Settings()), report(models, Settings(max_residual=0.0))
    assert exact["residual_mass"] == {"mean": 0.0, "max": 0.0}
    residual = quick["residual_mass"]
    assert 0 < residual["mean"] < residual["max"] <= Settings().max_residual
    assert quick["calibration"]["method"] == "temperature"
    mine, theirs = dict(figures(quick)), dict(figures(exact))
    assert mine.keys() == theirs.keys()
    moved = {path: abs(mine[path] - x) / max(1.0, abs(x)) for path, x in theirs.items()}
    # Confidences that are nearly equal may change places, and so a row its bin.
    row = 1 / ROWS
    for path, change in moved.items():
        if "/reliability/" in path and not path.endswith("/confidence"):
            assert change <= 4 * row * BINS, path
        elif "/ece/" in path:
            assert change <= 1e-3 + row, path
        elif leak < 0.05 or not path.startswith("/calibration/"):
            assert change < 1e-3, path
        else:
            # A temperature magnifies what a bound exceeds the truth by, here a twentieth a token.
            assert change < 1.5e-2, path
