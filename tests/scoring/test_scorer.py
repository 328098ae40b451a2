"""Scores equal one plain forward per label, whatever the batch, order and padding."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from multitask.errors import MultitaskError
from multitask.scoring.encode import Encoded, Encoder
from multitask.scoring.scorer import label_scores

torch = pytest.importorskip("torch")

PROMPTS = ["where is my card?", "x", "a longer question about cards and their arrival\nat home"]
LABELS = ["card", "card_arrival", "lost", "lost card", "?"]


@pytest.fixture(scope="module")
def loaded(toy: Path) -> Any:
    from multitask.scoring.model import load_model

    return load_model(str(toy))


@pytest.fixture(scope="module")
def queries(loaded: Any) -> list[Encoded]:
    encoder = Encoder(loaded.tokenizer)
    return [encoder.encode(prompt, LABELS) for prompt in PROMPTS]


def naive(model: Any, query: Encoded) -> list[float]:
    """One forward over prompt and answer for every label."""
    scores = []
    for answer in query.answers:
        ids = torch.tensor([query.prompt + answer])
        with torch.inference_mode():
            logs = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
        start = len(query.prompt) - 1
        scores.append(sum(float(logs[start + i, token]) for i, token in enumerate(answer)))
    return scores


def test_scores_equal_the_naive_ones(loaded: Any, queries: list[Encoded]) -> None:
    scores = label_scores(loaded.model, queries)
    for query, values in zip(queries, scores, strict=True):
        assert values == pytest.approx(naive(loaded.model, query), abs=1e-4)


def test_scores_do_not_depend_on_batch_or_order(loaded: Any, queries: list[Encoded]) -> None:
    together = label_scores(loaded.model, queries * 4)
    shuffled = list(range(len(queries)))
    random.Random(1).shuffle(shuffled)
    alone = {i: label_scores(loaded.model, [queries[i]], token_budget=1)[0] for i in shuffled}
    for i, values in enumerate(together):
        assert values == pytest.approx(alone[i % len(queries)], abs=1e-5)


def test_queries_with_answers_of_their_own_can_be_mixed(loaded: Any) -> None:
    encoder = Encoder(loaded.tokenizer)
    mixed = [encoder.encode("x", ["card", "lost"]), encoder.encode("x", ["?"])]
    scores = label_scores(loaded.model, mixed)
    assert [len(values) for values in scores] == [2, 1]


def test_one_token_answers_need_no_second_pass(loaded: Any, queries: list[Encoded]) -> None:
    short = [Encoded(q.prompt, ((5,), (6,))) for q in queries]
    scores = label_scores(loaded.model, short)
    assert scores[0] == pytest.approx(naive(loaded.model, short[0]), abs=1e-4)


def test_a_model_that_returns_nan_is_named(loaded: Any, queries: list[Encoded]) -> None:
    import copy

    broken = copy.deepcopy(loaded.model)
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(MultitaskError, match="not finite"):
        label_scores(broken, queries)


def test_progress_ends_at_the_number_of_queries(loaded: Any, queries: list[Encoded]) -> None:
    seen: list[int] = []
    label_scores(loaded.model, queries, token_budget=1, progress=seen.append)
    assert seen == [1, 2, 3]
