"""On every architecture scores equal one plain forward per label, and the best one is the best."""

from __future__ import annotations

import random

import numpy as np
import pytest

from multitask.scoring.capabilities import Method
from multitask.scoring.scorer import FULL_DISTRIBUTION, LabelScorer
from tests.scoring.models import ARCHITECTURES, Case, case

pytest.importorskip("torch")

EVERY = pytest.mark.parametrize("name", ARCHITECTURES)
TRAINED = pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
TREE = {
    "llama", "qwen2", "gpt2", "gpt_neox", "opt", "falcon-rotary", "mistral", "gemma3-wide", "phi",
}  # fmt: skip


def check(found: Case, scorer: LabelScorer, unvisited: float | None) -> None:
    for scores, right in zip(
        scorer.score(found.queries, unvisited=unvisited), found.plain, strict=True
    ):
        known = np.isfinite(scores.log_likelihood)
        assert right[scores.best] >= right.max() - 1e-4
        assert known[scores.best]
        assert np.abs(scores.log_likelihood - right)[known].max() < 1e-3
        assert (right[~known] <= scores.upper + 1e-3).all()
        if unvisited is not None:
            left = np.exp(right[~known]).sum() / np.exp(right[known]).sum()
            assert left <= scores.unvisited + 1e-9 <= unvisited + 2e-9


@EVERY
@TRAINED
@pytest.mark.parametrize("unvisited", [None, FULL_DISTRIBUTION, 0.0], ids=["best", "full", "all"])
def test_scores_equal_the_plain_ones(name: str, trained: bool, unvisited: float | None) -> None:
    found = case(name, trained=trained)
    scorer = LabelScorer(found.model)
    check(found, scorer, unvisited)
    # A method that failed its check would have been replaced, and that noted.
    assert not any("fails" in note for note in scorer.notes)
    assert bool(scorer.notes) == (name not in TREE | {"t5"})


@EVERY
def test_scores_do_not_depend_on_batch_or_order(name: str) -> None:
    found = case(name, trained=True)
    together = LabelScorer(found.model).score(found.queries, unvisited=0.0)
    order = list(range(len(found.queries)))
    random.Random(3).shuffle(order)
    alone = LabelScorer(found.model, token_budget=1)
    shuffled = alone.score([found.queries[i] for i in order], unvisited=0.0)
    for place, i in enumerate(order):
        assert shuffled[place].log_likelihood == pytest.approx(together[i].log_likelihood, abs=1e-4)


@pytest.mark.parametrize("method", [Method.CACHED, Method.PLAIN])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma2", "mistral-window", "bloom"])
def test_the_slower_methods_give_the_same(name: str, method: Method) -> None:
    found = case(name, trained=True)
    check(found, LabelScorer(found.model, method=method), None)
    check(found, LabelScorer(found.model, method=method), 0.0)


@pytest.mark.parametrize("name", ["llama", "bloom", "mamba", "t5"])
def test_a_model_that_knows_the_answer_reads_few_nodes(name: str) -> None:
    found = case(name, trained=True)
    nodes = [scores.nodes for scores in LabelScorer(found.model).score(found.queries)]
    assert np.mean(nodes) < 4


@pytest.mark.parametrize("name", ["bloom", "falcon-alibi", "mistral-window", "gemma2", "gemma3"])
def test_a_method_that_is_wrong_for_a_model_is_found_out_and_noted(name: str) -> None:
    """The tree method forced on models it is wrong for: the self-check replaces it."""
    found = case(name, trained=False)
    scorer = LabelScorer(found.model, method=Method.TREE)
    check(found, scorer, 0.0)
    assert any("the tree one fails" in note for note in scorer.notes)
