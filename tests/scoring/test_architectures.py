"""On every architecture scores equal one plain forward per label, and the best one is the best."""

from __future__ import annotations

import random

import numpy as np
import pytest

from multitask.scoring.model import Method
from multitask.scoring.scorer import FULL_DISTRIBUTION, Scorer
from tests.scoring.models import ARCHITECTURES, Case, case, scorer

pytest.importorskip("torch")

EVERY = pytest.mark.parametrize("name", ARCHITECTURES)
TRAINED = pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
TREE = {
    "llama", "qwen2", "gpt2", "gpt_neox", "opt", "falcon-rotary", "mistral", "gemma3-wide", "phi",
}  # fmt: skip


def check(found: Case, scorer: Scorer, max_residual: float | None) -> None:
    scores = scorer.score_tokens(found.queries, max_residual=max_residual)
    right, own = found.plain, scores.scored
    rows = np.arange(len(right))
    assert (right[rows, scores.best] >= right.max(1) - 1e-5).all()
    assert own[rows, scores.best].all()
    assert np.isfinite(scores.log_probs).all()
    np.testing.assert_allclose(scores.log_probs[own], right[own], rtol=1e-6, atol=1e-5)
    tail = np.where(own, 0, np.exp(right)).sum(1) / np.exp(right).sum(1)
    assert (tail <= scores.residual_mass + 1e-9).all()
    assert (scores.residual_mass <= (1 if max_residual is None else max_residual)).all()


@EVERY
@TRAINED
def test_scores_equal_the_plain_ones(name: str, trained: bool) -> None:
    found = case(name, trained=trained)
    one = scorer(found.model)
    for max_residual in (None, FULL_DISTRIBUTION, 0.0):
        check(found, one, max_residual)
    # A method that failed its check would have been replaced, and that noted.
    assert not any("fails" in note for note in one.notes)
    assert bool(one.notes) == (name not in TREE | {"t5"})


@EVERY
def test_scores_do_not_depend_on_batch_or_order(name: str) -> None:
    found = case(name, trained=True)
    together = scorer(found.model).score_tokens(found.queries)
    order = list(range(len(found.queries)))
    random.Random(3).shuffle(order)
    alone = scorer(found.model, token_budget=1)
    shuffled = alone.score_tokens([found.queries[i] for i in order])
    np.testing.assert_allclose(shuffled.log_probs, together.take(order).log_probs, atol=1e-5)


@pytest.mark.parametrize("method", [Method.CACHED, Method.PLAIN])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma2", "mistral-window", "bloom"])
def test_the_slower_methods_give_the_same(name: str, method: Method) -> None:
    found = case(name, trained=True)
    one = scorer(found.model)
    one.method = method
    check(found, one, None)
    check(found, one, 0.0)


@pytest.mark.parametrize("name", ["llama", "bloom", "mamba", "t5"])
def test_a_model_that_knows_the_answer_reads_few_labels(name: str) -> None:
    found = case(name, trained=True)
    scores = scorer(found.model).score_tokens(found.queries, max_residual=None)
    assert scores.scored.sum(1).mean() < 3


@pytest.mark.parametrize("name", ["bloom", "falcon-alibi", "mistral-window", "gemma2", "gemma3"])
def test_a_method_that_is_wrong_for_a_model_is_found_out_and_noted(name: str) -> None:
    """The tree method forced on models it is wrong for: the self-check replaces it."""
    found = case(name, trained=False)
    one = scorer(found.model)
    one.method = Method.TREE
    check(found, one, 0.0)
    assert any("the tree one fails" in note for note in one.notes)
