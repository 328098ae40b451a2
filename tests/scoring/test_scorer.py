"""Requests in, a finished matrix out: exact where scored, bounded where not; memory, bad input."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multitask.errors import MultitaskError
from multitask.scoring.encode import Encoded, Encoder
from multitask.scoring.model import load_model
from multitask.scoring.scorer import Request, Scorer, Scores, groups_of
from tests.scoring.models import build, case, random_queries, reference, scorer

torch = pytest.importorskip("torch")

WORDS = ("card", "lost", "?", "d")
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
def queries(loaded: Any, requests: list[Request]) -> list[Encoded]:
    return Encoder(loaded.tokenizer).encode_all([r.prompt for r in requests[:3]], LABELS)


@pytest.fixture(scope="module")
def right(loaded: Any, requests: list[Request]) -> Any:
    """One forward for every candidate; -inf where a row has none."""
    encoder = Encoder(loaded.tokenizer)
    found = np.full((len(requests), len(LABELS)), -np.inf)
    for row, request in zip(found, requests, strict=True):
        query = encoder.encode(request.prompt, request.candidates, repeats=not request.distinct)
        count = len(query.answers)
        row[:count] = [reference(loaded.model, query, i) for i in range(count)]
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


def test_the_longest_labels_of_a_big_set_fit_in_several_steps() -> None:
    """A tree wider than what is held at once is read in parts, and read again where needed."""
    model = build("llama")
    queries = random_queries(count=3, labels=600, seed=5)
    found = scorer(model, token_budget=64).score_tokens(queries)
    for query, scores in zip(queries, found.log_probs, strict=True):
        some = range(0, 600, 37)
        assert scores[some] == pytest.approx([reference(model, query, i) for i in some], abs=1e-5)


def test_letters_cost_one_small_step_after_the_prompts() -> None:
    model = copy.deepcopy(case("llama", trained=True).model)
    letters = tuple((token, 1) for token in range(2, 7))
    queries = [Encoded(random_queries(1)[0].prompt, letters)] * 3
    one = scorer(model)
    one.score_tokens(queries)  # which reads the prefix, and is compared with the plain way
    widths: list[int] = []

    def watch(_: Any, inputs: Any, options: dict[str, Any]) -> None:
        widths.append(options["input_ids"].shape[1])

    model.register_forward_pre_hook(watch, with_kwargs=True)
    one.score_tokens(queries)
    assert widths == [1, len(letters)]


def test_labels_that_tie_are_the_first_scored() -> None:
    """A model without preferences: every first token has the same logit, to the last bit."""
    model = build("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    queries = [Encoded((5, 6, 7), ((9, 1), (3, 1), (4, 1)))] * 3
    for max_residual in (None, 0.5, 0.0):
        scores = scorer(model).score_tokens(queries, max_residual=max_residual)
        assert scores.best.tolist() == [int(row.argmax()) for row in scores.scored]
        assert (scores.log_probs == scores.log_probs[0, 0]).all()


def test_a_row_with_nan_is_named(loaded: Any, queries: list[Encoded]) -> None:
    broken = copy.deepcopy(loaded.model)
    # Only the prompts with this token give NaN.
    mark = next(t for t in queries[2].prompt if t not in queries[0].prompt + queries[1].prompt)
    weights = broken.get_input_embeddings().weight
    broken.set_output_embeddings(torch.nn.Linear(*weights.shape[::-1], bias=False))
    weights.data[mark] = float("nan")
    with pytest.raises(MultitaskError, match="not finite for row 'third'"):
        scorer(broken).score_tokens(queries, ["first", "second", "third"])


def test_a_token_beyond_the_vocabulary_is_refused(loaded: Any) -> None:
    with pytest.raises(MultitaskError, match=r"token 100000, but the model knows"):
        scorer(loaded.model).score_tokens([Encoded((1, 100000), ((2,),))])


def test_a_prompt_beyond_learnt_positions_is_refused() -> None:
    model = build("gpt2")
    with pytest.raises(MultitaskError, match="has 72 tokens with its longest answer"):
        scorer(model).score_tokens([Encoded((5,) * 70, ((2, 1),))])


def test_an_answer_without_tokens_is_refused(loaded: Any) -> None:
    with pytest.raises(MultitaskError, match="no tokens"):
        scorer(loaded.model).score_tokens([Encoded((1, 2), ((2,), ()))])


class TooManyRows:
    """A hook that runs out of memory for real where a batch is larger than ``rows``."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, module: Any, inputs: Any, options: dict[str, Any]) -> None:
        if len(options["input_ids"]) > self.rows:
            torch.empty(1 << 50)


@pytest.mark.parametrize("name", ["llama", "bloom", "t5"])
def test_batches_halve_where_memory_runs_out(name: str) -> None:
    found = case(name, trained=True)
    model = copy.deepcopy(found.model)
    watched = model.get_encoder() if name == "t5" else model
    watched.register_forward_pre_hook(TooManyRows(3), with_kwargs=True)
    one = scorer(model)
    scores = one.score_tokens(found.queries)
    np.testing.assert_allclose(scores.log_probs, found.plain, rtol=1e-6, atol=1e-5)
    assert one.token_budget < 300
    assert any("memory ran out" in note for note in one.notes)


def test_memory_that_does_not_suffice_for_one_row_is_an_error() -> None:
    model = build("llama")
    model.register_forward_pre_hook(TooManyRows(0), with_kwargs=True)
    with pytest.raises(MultitaskError, match="does not suffice for one prompt"):
        scorer(model).score_tokens(random_queries(4))


def test_other_errors_of_a_model_are_not_hidden() -> None:
    model = build("llama")

    def fail(*_: Any) -> None:
        raise RuntimeError("a kernel is missing")

    model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="a kernel is missing"):
        scorer(model).score_tokens(random_queries(4))


def test_progress_ends_at_the_number_of_queries(loaded: Any, queries: list[Encoded]) -> None:
    seen: list[int] = []
    scorer(loaded.model, token_budget=1).score_tokens(queries, progress=seen.append)
    assert seen == [1, 2, 3]


def test_bfloat16_models_are_scored(loaded: Any, queries: list[Encoded]) -> None:
    half = copy.deepcopy(loaded.model).bfloat16()
    one = scorer(half)
    for query, scores in zip(queries, one.score_tokens(queries).log_probs, strict=True):
        some = range(0, len(LABELS), 20)
        assert scores[some] == pytest.approx([reference(half, query, i) for i in some], abs=0.3)
    assert one.notes == []


def prompts(head: tuple[int, ...], count: int, seed: int = 0) -> list[tuple[int, ...]]:
    return [
        (*head, *((seed + i * 7 + j) % 50 + 100 for j in range(i % 5 + 1))) for i in range(count)
    ]


def test_every_phrasing_has_its_own_prefix() -> None:
    first, second = (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 9, 8, 7, 6, 5, 4, 3)
    every = [*prompts(first, 30), *prompts(second, 30)]
    groups = groups_of(every, share=True)
    assert {prefix for prefix, _ in groups} == {first, second}
    assert sorted(i for _, order in groups for i in order) == list(range(60))


def test_a_prefix_is_shorter_than_every_prompt_and_begins_each() -> None:
    every = [(1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6, 7)]
    assert groups_of(every, share=True) == [((1, 2, 3, 4), [2, 1, 0])]


def test_prompts_that_share_nothing_are_one_group_without_prefix() -> None:
    every = [(i, i + 1, i + 2) for i in range(40)]
    ((prefix, _),) = groups_of(every, share=True)
    assert prefix == ()


def test_equal_lengths_only() -> None:
    every = [(1, 2), (1, 2, 3), (4, 5)]
    groups = groups_of(every, share=False, equal=True)
    assert sorted(sorted(order) for _, order in groups) == [[0, 2], [1]]


def test_blocks_pad_least() -> None:
    from multitask.scoring.readers import even_blocks

    widths = np.array([90, 20, 20, 20, 19, 2, 2])
    assert even_blocks(widths, cost=10) == [(1, 90), (4, 20), (2, 2)]
    assert even_blocks(widths, cost=10_000) == [(7, 90)]
    assert even_blocks(widths[1:4], cost=1) == [(3, 20)]
