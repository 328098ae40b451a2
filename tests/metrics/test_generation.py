"""Exact match, token F1, ROUGE and BLEU of generated texts."""

from __future__ import annotations

import random

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from multitask.metrics.estimate import Estimate
from multitask.metrics.generation import ROUGE, bleu, exact_match, rouge, token_f1

texts = st.lists(
    st.tuples(*[st.text("ab .,-'AB1", max_size=20)] * 2),
    min_size=1,
    max_size=6,
)


def _sentences(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "Today", "it", "rained", "."]
    return [" ".join(rng.choices(words, k=rng.randint(4, 12))) for _ in range(n)]


def test_exact_match_ignores_case_and_white_space() -> None:
    assert exact_match(["Paris", "two words", "a"], [" paris", "two  words", "b"]).value == (
        pytest.approx(2 / 3)
    )


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("the cat sat", "The cat, sat!", 1.0),
        ("the cat sat", "the dog sat", 2 / 3),
        ("a a b", "a b b", 2 / 3),  # repeated words count as often as both have them
        ("x", "y", 0.0),
        ("x", "", 0.0),
        ("!", "", 1.0),
    ],
)
def test_token_f1(gold: str, predicted: str, expected: float) -> None:
    assert token_f1([gold], [predicted]).value == pytest.approx(expected)


@given(texts)
def test_rouge_of_plain_english_is_that_of_rouge_score(pairs: list[tuple[str, str]]) -> None:
    found = rouge([g for g, _ in pairs], [p for _, p in pairs])
    scorer = RougeScorer(ROUGE)
    for name in ROUGE:
        expected = sum(scorer.score(g, p)[name].fmeasure for g, p in pairs) / len(pairs)
        assert found[name].value == pytest.approx(expected)


def test_rouge_knows_words_of_other_scripts() -> None:
    assert rouge(["кошка сидит дома"], ["Кошка сидит тут"])["rouge1"].value == (
        pytest.approx(2 / 3)
    )


@settings(max_examples=15, deadline=None)
@given(texts)
def test_bleu_is_that_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    expected = sacrebleu.corpus_bleu(predicted, [gold]).score / 100
    assert bleu(gold, predicted).value == pytest.approx(expected, abs=1e-9)


def test_bleu_of_sentences_is_that_of_sacrebleu() -> None:
    gold, predicted = _sentences(30, 0), _sentences(30, 1)
    expected = sacrebleu.corpus_bleu(predicted, [gold]).score / 100
    assert expected > 0
    assert bleu(gold, predicted).value == pytest.approx(expected)
    assert bleu(gold, gold).value == 1


def test_bleu_intervals_are_like_those_of_sacrebleu() -> None:
    gold = _sentences(60, 0)
    predicted = [
        g if i % 3 else p for i, (g, p) in enumerate(zip(gold, _sentences(60, 1), strict=True))
    ]
    metric = sacrebleu.BLEU()
    theirs = metric.corpus_score(predicted, [gold], n_bootstrap=500)
    found = bleu(gold, predicted)
    assert (found.high - found.low) / 2 == pytest.approx(theirs._ci / 100, rel=0.25)


@pytest.mark.parametrize("clustered", [False, True])
def test_intervals_hold_the_value(clustered: bool) -> None:
    gold, predicted = _sentences(24, 0), _sentences(24, 1)
    clusters = [i // 3 for i in range(24)] if clustered else None
    estimates: list[Estimate] = [
        token_f1(gold, predicted, clusters=clusters),
        bleu(gold, predicted, clusters=clusters),
        *rouge(gold, predicted, clusters=clusters).values(),
    ]
    for estimate in estimates:
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1


@pytest.mark.parametrize("metric", [exact_match, token_f1, rouge, bleu])
def test_no_rows_are_refused(metric: object) -> None:
    with pytest.raises(ValueError, match="no rows"):
        metric([], [])  # type: ignore[operator]
    with pytest.raises(ValueError, match="2 gold answers but 1"):
        metric(["a", "b"], ["a"])  # type: ignore[operator]
