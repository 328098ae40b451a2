"""Baselines: trained on the training rows only, for both kinds of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.evaluation.baselines import majority, tfidf_logistic_regression


def _rows(*pairs: tuple[str, str]) -> list[dict[str, object]]:
    return [{"text": text, "label": label} for text, label in pairs]


def test_majority_ties_go_to_the_first_name() -> None:
    train = _rows(("x", "b"), ("y", "a"))
    assert majority(train, train) == ["a", "a"]


def test_tfidf_learns_words() -> None:
    train = _rows(
        *[(f"lost card {i}", "lost") for i in range(5)], *[(f"top up {i}", "top") for i in range(5)]
    )
    assert tfidf_logistic_regression(train, _rows(("my card is lost", "?"))) == ["lost"]


@pytest.mark.parametrize("texts", ["ab", "甲乙", "🙂🙁", "?!"])
def test_texts_without_a_word_of_two_characters_are_answered(texts: str) -> None:
    """scikit-learn's default words have two characters or more (``TfidfVectorizer``'s
    ``token_pattern``); without any it raises "empty vocabulary"."""
    train = _rows(*[(text, label) for text, label in zip(texts, "xy", strict=True)] * 5)
    assert tfidf_logistic_regression(train, train[:2]) == ["x", "y"]
    questions = [
        {"text": "?", "answer": "A", "choices": [texts[0], texts[1]]},
        {"text": "?", "answer": "B", "choices": [texts[1], texts[0]]},
    ] * 5
    assert tfidf_logistic_regression(questions, questions[:2]) == ["A", "B"]


def test_a_single_class_is_answered_without_a_model() -> None:
    train = _rows(("x", "only"), ("y", "only"))
    assert tfidf_logistic_regression(train, train) == ["only", "only"]


def test_multiple_choice_answers_with_a_letter_of_its_options() -> None:
    rows = [
        {"text": f"question {i}", "answer": "B", "choices": ["wrong thing", "right thing"]}
        for i in range(10)
    ]
    assert tfidf_logistic_regression(rows, rows[:3]) == ["B", "B", "B"]


def test_real_banking77_reference_value(real_data: Path) -> None:
    """TF-IDF + LR on all 10,003 rows is known to reach 89.4 % on the 3,080 test rows."""
    from multitask.data.sources import read_task
    from multitask.spec import shipped_task

    _, data, _ = read_task(shipped_task("banking77"), data_dir=real_data, sample=False)
    rows = {s: [{"text": e.text, "label": e.label} for e in es] for s, es in data.splits.items()}
    predicted = tfidf_logistic_regression(rows["train"], rows["test"])
    hits = sum(p == row["label"] for p, row in zip(predicted, rows["test"], strict=True))
    assert hits / len(predicted) == pytest.approx(0.894, abs=0.004)
