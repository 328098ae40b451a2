"""Generated texts: which label they name, and how close they are to a reference."""

from __future__ import annotations

import random

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from multitask.metrics import METRICS, Predictions, compute
from multitask.metrics.intervals import Interval, wilson
from multitask.metrics.registry import metrics_of
from multitask.metrics.text import off_list_rate, parse_labels, parse_letter

LABELS = (
    "card_arrival",
    "card payment",
    "card payment fee",
    "Refund_not_showing_up",
    "reverted_card_payment?",
)
ROUGE = ("rouge1", "rouge2", "rougeL")

texts = st.lists(st.tuples(*[st.text("ab .,-'AB1", max_size=20)] * 2), min_size=1, max_size=6)


def _found(name: str, gold: list[str], predicted: list[str]) -> Interval:
    return compute(Predictions(gold, predicted), [METRICS[name]])[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card_arrival", "card_arrival"),
        (" card_arrival\n", "card_arrival"),
        ("Card Arrival.", "card_arrival"),
        ("`card-arrival`", "card_arrival"),
        ("card_arrival, since the card is late", "card_arrival"),
        ("ｃａｒｄ arrival", "card_arrival"),  # noqa: RUF001 (full-width letters)
        ("refund not showing up", "Refund_not_showing_up"),
        ("reverted_card_payment", "reverted_card_payment?"),
        ("card payment", "card payment"),
        ("card payment fee!", "card payment fee"),
        ("card payment fee charged", "card payment fee"),  # the longest label
        ("card payment feels odd", "card payment"),  # whole words
        ("card_arrivals", None),
        ("card", None),
        ("it is card_arrival", None),
        ("", None),
        ("?!", None),
    ],
)
def test_labels(text: str, expected: str | None) -> None:
    assert parse_labels([text], LABELS) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A+", "A+"),
        ("A-", "A-"),
        (" A- ", "A-"),
        ("a+", None),
        ("A+ of course", None),
        ("?", "?"),
        ("C", "C"),
    ],
)
def test_labels_of_the_same_words_are_told_apart_only_letter_for_letter(
    text: str, expected: str | None
) -> None:
    assert parse_labels([text], ["A+", "A-", "?", "C"]) == [expected]


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, unique_by=str.strip))
def test_every_label_names_itself(labels: list[str]) -> None:
    assert parse_labels(labels, labels) == labels


@given(st.text(), st.permutations(LABELS))
def test_the_order_of_labels_does_not_matter(text: str, labels: list[str]) -> None:
    assert parse_labels([text], labels) == parse_labels([text], LABELS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("**B**", "B"),
        ("B. the second", "B"),
        ("The answer is B.", "B"),
        ("A or B", "A"),
        ("I think C", "C"),
        ("E, or rather D", "D"),  # four options: there is no E
        ("A's is wrong, D", "D"),
        ("Because", None),
        ("a dog or b", None),
        ("e", None),
        ("", None),
    ],
)
def test_letters(text: str, expected: str | None) -> None:
    assert parse_letter(text, 4) == expected


def test_the_off_list_rate_counts_answers_that_name_nothing() -> None:
    rows = Predictions(list("abab"), ["a", None, "b", None], "ab", texts=[""] * 4)
    assert off_list_rate(rows) == wilson(2, 4)


def _sentences(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "Today", "it", "rained", "."]
    return [" ".join(rng.choices(words, k=rng.randint(4, 12))) for _ in range(n)]


def test_exact_match_ignores_case_and_white_space() -> None:
    found = _found("exact_match", ["Paris", "two words", "a"], [" paris", "two  words", "b"])
    assert found == wilson(2, 3)


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
    assert _found("token_f1", [gold], [predicted]).value == pytest.approx(expected)


@given(texts)
def test_rouge_of_plain_english_is_that_of_rouge_score(pairs: list[tuple[str, str]]) -> None:
    scorer = RougeScorer(ROUGE)
    for name in ROUGE:
        expected = sum(scorer.score(g, p)[name].fmeasure for g, p in pairs) / len(pairs)
        found = _found(name, [g for g, _ in pairs], [p for _, p in pairs])
        assert found.value == pytest.approx(expected)


def test_rouge_knows_words_of_other_scripts() -> None:
    found = _found("rouge1", ["кошка сидит дома"], ["Кошка сидит тут"])
    assert found.value == pytest.approx(2 / 3)


@settings(max_examples=15, deadline=None)
@given(texts)
def test_bleu_is_that_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    expected = sacrebleu.corpus_bleu(predicted, [gold]).score / 100
    assert _found("bleu", gold, predicted).value == pytest.approx(expected, abs=1e-9)


def test_bleu_of_sentences_is_that_of_sacrebleu() -> None:
    gold, predicted = _sentences(30, 0), _sentences(30, 1)
    expected = sacrebleu.corpus_bleu(predicted, [gold]).score / 100
    assert expected > 0
    assert _found("bleu", gold, predicted).value == pytest.approx(expected)
    assert _found("bleu", gold, gold).value == 1


def test_bleu_intervals_are_like_those_of_sacrebleu() -> None:
    gold = _sentences(60, 0)
    predicted = [
        g if i % 3 else p for i, (g, p) in enumerate(zip(gold, _sentences(60, 1), strict=True))
    ]
    theirs = sacrebleu.BLEU().corpus_score(predicted, [gold], n_bootstrap=500)
    found = _found("bleu", gold, predicted)
    assert (found.high - found.low) / 2 == pytest.approx(theirs._ci / 100, rel=0.25)


@pytest.mark.parametrize("repeated", [False, True])
def test_intervals_hold_the_value(repeated: bool) -> None:
    items = [i // 3 for i in range(24)] if repeated else None
    rows = Predictions(_sentences(24, 0), _sentences(24, 1), items=items)
    found = compute(rows, metrics_of("generation"))
    assert list(found) == ["exact_match", "token_f1", *ROUGE, "bleu"]
    for name, interval in found.items():
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
        assert name == "exact_match" or interval.low < interval.value < interval.high
