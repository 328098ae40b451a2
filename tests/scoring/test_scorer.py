"""What holds for scoring beyond one architecture: bad input, memory, options, progress."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multitask.errors import MultitaskError
from multitask.scoring.encode import Encoded, Encoder
from multitask.scoring.plain import plain_score
from multitask.scoring.scorer import LabelScorer, label_scores
from tests.scoring.models import build, case, random_queries

torch = pytest.importorskip("torch")

PROMPTS = ["where is my card?", "x", "a longer question about cards and their arrival\nat home"]
LABELS = ["card", "card_arrival", "lost", "lost card", "?"]


@pytest.fixture(scope="module")
def loaded(toy: Path) -> Any:
    from multitask.scoring.model import load_model

    return load_model(str(toy))


@pytest.fixture(scope="module")
def queries(loaded: Any) -> list[Encoded]:
    return Encoder(loaded.tokenizer).encode_all(PROMPTS, LABELS)


def plain(model: Any, query: Encoded) -> list[float]:
    return [plain_score(model, query, i) for i in range(len(query.answers))]


def test_scores_equal_the_plain_ones(loaded: Any, queries: list[Encoded]) -> None:
    for query, values in zip(queries, label_scores(loaded.model, queries), strict=True):
        assert values == pytest.approx(plain(loaded.model, query), abs=1e-4)


def test_queries_with_answers_of_their_own_can_be_mixed(loaded: Any) -> None:
    encoder = Encoder(loaded.tokenizer)
    mixed = [
        encoder.encode("x", ["card", "lost"]),
        encoder.encode("which?", ["a text", "?", "lost card"]),
        encoder.encode("x", ["?"]),
    ]
    for unvisited in (None, 0.0):
        found = LabelScorer(loaded.model).score(mixed, unvisited=unvisited)
        for query, scores in zip(mixed, found, strict=True):
            right = plain(loaded.model, query)
            assert scores.best == int(np.argmax(right))
            assert scores.log_likelihood == pytest.approx(right, abs=1e-4)


def test_options_that_repeat_a_text_both_have_its_score(loaded: Any) -> None:
    query = Encoder(loaded.tokenizer).encode("x", ["card", "lost", "card"], repeats=True)
    (values,) = label_scores(loaded.model, [query])
    assert values[0] == values[2] == pytest.approx(plain_score(loaded.model, query, 0), abs=1e-4)


def test_scores_per_token_and_per_character(loaded: Any, queries: list[Encoded]) -> None:
    (scores,) = LabelScorer(loaded.model).score(queries[:1], unvisited=0.0)
    per_token = scores.normalised([len(answer) for answer in queries[0].answers])
    assert per_token[1] == scores.log_likelihood[1] / len(queries[0].answers[1])


def test_the_longest_labels_of_a_big_set_fit_in_several_steps() -> None:
    """A tree wider than what is held at once is read in parts, and read again where needed."""
    model = build("llama")
    queries = random_queries(count=3, labels=600, seed=5)
    found = LabelScorer(model, token_budget=64).score(queries, unvisited=0.0)
    for query, scores in zip(queries, found, strict=True):
        some = range(0, 600, 37)
        right = [plain_score(model, query, i) for i in some]
        assert scores.log_likelihood[some] == pytest.approx(right, abs=1e-3)


def test_letters_cost_one_small_step_after_the_prompts() -> None:
    model = case("llama", trained=True).model
    letters = tuple((token, 1) for token in range(2, 7))
    queries = [Encoded(query.prompt, letters) for query in random_queries(20)]
    for scores in LabelScorer(model).score(queries):
        assert scores.nodes <= len(letters)
        assert scores.forwards <= 3


def test_a_row_with_nan_is_named(loaded: Any, queries: list[Encoded]) -> None:
    broken = copy.deepcopy(loaded.model)
    # Only the prompts with this token give NaN.
    mark = next(t for t in queries[2].prompt if t not in queries[0].prompt + queries[1].prompt)
    weights = broken.get_input_embeddings().weight
    broken.set_output_embeddings(torch.nn.Linear(*weights.shape[::-1], bias=False))
    weights.data[mark] = float("nan")
    with pytest.raises(MultitaskError, match="not finite for row 'third'"):
        LabelScorer(broken).score(queries, ids=["first", "second", "third"])


def test_a_token_beyond_the_vocabulary_is_refused(loaded: Any) -> None:
    with pytest.raises(MultitaskError, match=r"token 100000, but the model knows"):
        LabelScorer(loaded.model).score([Encoded((1, 100000), ((2,),))])


def test_a_prompt_beyond_learnt_positions_is_refused() -> None:
    model = build("gpt2")
    with pytest.raises(MultitaskError, match="has 72 tokens with its longest answer"):
        LabelScorer(model).score([Encoded((5,) * 70, ((2, 1),))])


def test_an_answer_without_tokens_is_refused(loaded: Any) -> None:
    with pytest.raises(MultitaskError, match="no tokens"):
        LabelScorer(loaded.model).score([Encoded((1, 2), ((2,), ()))])


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
    scorer = LabelScorer(model)
    best = [scores.best for scores in scorer.score(found.queries)]
    assert best == found.plain.argmax(1).tolist()
    assert scorer.token_budget < 300
    assert any("memory ran out" in note for note in scorer.notes)


def test_memory_that_does_not_suffice_for_one_row_is_an_error() -> None:
    model = build("llama")
    model.register_forward_pre_hook(TooManyRows(0), with_kwargs=True)
    with pytest.raises(MultitaskError, match="does not suffice for one prompt"):
        LabelScorer(model).score(random_queries(4))


def test_other_errors_of_a_model_are_not_hidden() -> None:
    model = build("llama")

    def fail(*_: Any) -> None:
        raise RuntimeError("a kernel is missing")

    model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="a kernel is missing"):
        LabelScorer(model).score(random_queries(4))


def test_progress_ends_at_the_number_of_queries(loaded: Any, queries: list[Encoded]) -> None:
    seen: list[int] = []
    label_scores(loaded.model, queries, token_budget=1, progress=seen.append)
    assert seen == [1, 2, 3]


def test_no_queries_are_no_scores(loaded: Any) -> None:
    assert LabelScorer(loaded.model).score([]) == []


def test_bfloat16_models_are_scored(loaded: Any, queries: list[Encoded]) -> None:
    half = copy.deepcopy(loaded.model).bfloat16()
    scorer = LabelScorer(half)
    for query, scores in zip(queries, scorer.score(queries, unvisited=0.0), strict=True):
        assert scores.log_likelihood == pytest.approx(plain(half, query), abs=0.3)
    assert scorer.notes == []
