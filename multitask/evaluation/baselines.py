"""What a model must beat: the majority label, and TF-IDF with logistic regression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from multitask.data.render import Row, gold

TITLES = {
    "majority": "Majority label",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
}
"""Titles of the functions below, by their names in results.json."""


def majority(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Answer every row with the most frequent training label; ties go to the first by name."""
    counts = Counter(gold(row) for row in train)
    best = min(counts, key=lambda label: (-counts[label], label))
    return [best] * len(test)


def tfidf_logistic_regression(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Answer with a linear model on word 1- and 2-grams, trained on the same training rows.

    TF-IDF has sublinear term frequency; the regression's inverse regularisation is C = 20. Where
    no training text has a word of two characters, the n-grams are of characters. A multiple-choice
    question is a ranking: the model learns which (question, option) pairs are right, and the most
    probable option of a question is its answer.
    """
    if train and "choices" in train[0]:
        return _choose(train, test)
    labels = sorted({gold(row) for row in train})
    if len(labels) == 1:
        return labels * len(test)
    texts = [row["text"] for row in train]
    model = _linear_model(texts)
    model.fit(texts, [gold(row) for row in train])
    return [str(label) for label in model.predict([row["text"] for row in test])]


def _choose(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    pairs = [(text, letter == gold(row)) for row in train for letter, text in _options(row)]
    texts = [text for text, _ in pairs]
    model = _linear_model(texts)
    model.fit(texts, [right for _, right in pairs])
    right_column = list(model.classes_).index(True)
    answers = []
    scores = model.predict_proba([text for row in test for _, text in _options(row)])
    position = 0
    for row in test:
        options = _options(row)
        row_scores = scores[position : position + len(options), right_column]
        answers.append(options[int(np.argmax(row_scores))][0])
        position += len(options)
    return answers


def _options(row: Row) -> list[tuple[str, str]]:
    return [(chr(ord("A") + i), f"{row['text']} {text}") for i, text in enumerate(row["choices"])]


def _linear_model(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    tokens = features.build_tokenizer()
    # scikit-learn's words have two characters or more, and no word at all is an error to it.
    if not any(tokens(text) for text in texts):
        features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    return make_pipeline(features, LogisticRegression(C=20, max_iter=1000))


BASELINES = {"majority": majority, "tfidf_logistic_regression": tfidf_logistic_regression}
"""Every baseline by its name in results.json."""
