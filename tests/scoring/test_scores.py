"""Scores are a finished matrix: whole, exact where scored, and bounded where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multitask.scoring.encode import Encoder
from multitask.scoring.model import load_model
from multitask.scoring.plain import plain_score
from multitask.scoring.scorer import Request, Scorer, Scores

pytest.importorskip("torch")

WORDS = ("card", "card_arrival", "lost", "?", "where", "d")
LABELS = (*WORDS, *(f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS))
FEW = ("a text", "lost", "a text")


@pytest.fixture(scope="module")
def loaded(toy: Path) -> Any:
    return load_model(str(toy))


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    prompts = ["where is my card?", "x", "a longer question about cards\nat home"]
    every = [Request(str(i), prompt, LABELS, gold=i) for i, prompt in enumerate(prompts)]
    return [*every, Request("options", "which?", FEW, gold=1, distinct=False)]


@pytest.fixture(scope="module")
def right(loaded: Any, requests: list[Request]) -> Any:
    """One forward for every candidate; -inf where a row has none."""
    encoder = Encoder(loaded.tokenizer)
    found = np.full((len(requests), len(LABELS)), -np.inf)
    for row, request in zip(found, requests, strict=True):
        query = encoder.encode(request.prompt, request.candidates, repeats=not request.distinct)
        count = len(query.answers)
        row[:count] = [plain_score(loaded.model, query, i) for i in range(count)]
    return found


def test_every_candidate_has_the_score_of_a_forward_of_its_own(
    loaded: Any, requests: list[Request], right: Any
) -> None:
    scores = Scorer(loaded).score(requests)
    np.testing.assert_allclose(scores.log_probs, right, atol=1e-5)
    assert (scores.scored == np.isfinite(right)).all()
    assert (scores.best == right.argmax(1)).all()
    assert scores.residual_mass.tolist() == [0.0] * len(requests)


@pytest.mark.parametrize("max_residual", [0.5, 0.05, None])
def test_what_is_not_scored_is_bounded(
    loaded: Any, requests: list[Request], right: Any, max_residual: float | None
) -> None:
    requests, right = requests[:3], right[:3]  # a repeated option would count twice
    scores = Scorer(loaded).score(requests, max_residual=max_residual)
    own, has = scores.scored, np.isfinite(right)
    assert not own[has].all()
    np.testing.assert_allclose(scores.log_probs[own], right[own], atol=1e-5)
    assert (np.isfinite(scores.log_probs) == has).all()
    assert (scores.best == right.argmax(1)).all()
    probability, claimed = np.exp(right), np.exp(scores.log_probs)
    tail = np.where(own, 0, probability).sum(1) / probability.sum(1)
    assert (tail <= scores.residual_mass + 1e-9).all()
    # The cells of the tail hold together what the bound says.
    share = np.where(own, 0, claimed).sum(1) / claimed.sum(1)
    np.testing.assert_allclose(share, scores.residual_mass, atol=1e-9)
    if max_residual is not None:
        assert (scores.residual_mass <= max_residual).all()
        assert own[range(len(requests)), [request.gold or 0 for request in requests]].all()


def test_blocks_join_to_the_whole(loaded: Any, requests: list[Request]) -> None:
    scorer = Scorer(loaded)
    whole = scorer.score(requests)
    parts = [scorer.score(requests[3:]), scorer.score(requests[:3])]
    again = Scores.join(parts).take([1, 2, 3, 0])
    np.testing.assert_allclose(again.log_probs, whole.log_probs, atol=1e-5)
    assert (again.scored == whole.scored).all()
    assert (again.best == whole.best).all()
    assert len(Scores.join([])) == len(scorer.score([])) == 0


def test_generated_answers_have_texts_alone(loaded: Any, requests: list[Request]) -> None:
    scorer = Scorer(loaded)
    scores = scorer.generate(requests, max_new_tokens=3)
    assert scores.log_probs.shape == (4, 0)
    assert len(scores) == len(scores.texts) == len(Scores.join([scores]).texts) == 4
    assert scores.take([2]).texts == scores.texts[2:3]
    assert scorer.generate([]).texts == ()
