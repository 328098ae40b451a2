"""Generated texts: what label they name, and how close they are to a reference.

The rules for naming are few and strict, since they decide what counts as right:

A **label** is named by a text that (1) is the label, letter for letter, apart from white space
around it; or else (2) has the same words; or else (3) begins with the label's words, the longest
such label if one begins another. Words are runs of letters and digits, without regard to case and
Unicode form: ``card_arrival``, ``Card arrival.`` and ``card-arrival`` have the same words. Where
two labels have the same words, a text with those words names neither, unless by (1).

A **letter** is named by a text that (1) is one letter, of either case, with nothing but
punctuation around it; or else by (2) the first capital that stands alone: ``The answer is B.``
names B, ``A or B`` names A. Letters of options that the question does not have are passed over.

Anything else is off-list.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from multitask.data.fingerprint import normalised, without_punctuation
from multitask.metrics.intervals import Bools, Floats
from multitask.metrics.registry import Predictions, Statistic, metric

_GENERATION = ("generation",)
_NO_WORD = re.compile(r"[\W_]+")
_WORD = re.compile(r"[^\W_]+")
# A capital with no letter, digit or apostrophe next to it: not the "I" of "I'd".
_CAPITAL = re.compile(r"(?<![\w'\u2019])[A-Z](?![\w'\u2019]\w|\w)")


def parse_labels(texts: Sequence[str], labels: Sequence[str]) -> list[str | None]:
    """The label that each text names, by the rules above; None: off-list."""
    verbatim = {label.strip(): label for label in labels}
    by_words: dict[tuple[str, ...], str | None] = {}
    for label in labels:
        words = _words(label)
        by_words[words] = None if words in by_words else label
    by_words.pop((), None)
    longest = max(map(len, by_words), default=0)

    def parse(text: str) -> str | None:
        if text.strip() in verbatim:
            return verbatim[text.strip()]
        words = _words(text)
        for count in range(min(longest, len(words)), 0, -1):
            if words[:count] in by_words:
                return by_words[words[:count]]
        return None

    return [parse(text) for text in texts]


def parse_letter(text: str, options: int) -> str | None:
    """The letter, of so many options, that a text names by the rules above; None: off-list."""
    known = {chr(ord("A") + i) for i in range(options)}
    words = _NO_WORD.sub(" ", text).split()
    if len(words) == 1 and words[0].upper() in known:
        return words[0].upper()
    return next((found for found in _CAPITAL.findall(text) if found in known), None)


def _words(text: str) -> tuple[str, ...]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(_NO_WORD.sub(" ", folded).split())


@metric(name="off_list_rate", title="Off-list answers", higher_is_better=False, needs=["texts"])
def off_list_rate(predictions: Predictions) -> Bools:
    """Share of generated answers that name no label."""
    return np.array([label is None for label in predictions.predicted], dtype=np.bool_)


@metric(name="exact_match", title="Exact match", kinds=_GENERATION)
def exact_match(predictions: Predictions) -> Bools:
    """Share of texts that equal the reference, ignoring case and white space."""
    pairs = zip(predictions.gold, predictions.predicted, strict=True)
    return np.array([matches(gold, text) for gold, text in pairs], dtype=np.bool_)


def matches(gold: str, predicted: str | None) -> bool:
    """Whether a text equals the reference, ignoring case and white space."""
    return predicted is not None and normalised(predicted) == normalised(gold)


@metric(name="token_f1", title="Token F1", kinds=_GENERATION)
def token_f1(predictions: Predictions) -> Floats:
    """Mean F1 of the words of each text against its reference.

    As in SQuAD (Rajpurkar et al., 2016), without dropping articles, so that it holds for any
    language with spaces.
    """
    pairs = zip(predictions.gold, predictions.predicted, strict=True)
    return np.array([_f1(gold, text) for gold, text in pairs])


def _f1(gold: str, predicted: str) -> float:
    one, two = without_punctuation(gold).split(), without_punctuation(predicted).split()
    if not one or not two:
        return float(one == two)
    return 2 * (Counter(one) & Counter(two)).total() / (len(one) + len(two))


class _Words:
    """Words of any script, case folded; of plain English, those of rouge-score itself."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.casefold())


@lru_cache(maxsize=1)
def _rouge(predictions: Predictions) -> dict[str, Floats]:
    """ROUGE (C.-Y. Lin, 2004) of each text: F-measures by ``rouge-score``.

    Without stemming, which is for English alone, and with words of any script, where
    ``rouge-score`` would drop all but a-z and digits.
    """
    from rouge_score.rouge_scorer import RougeScorer

    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(names, tokenizer=_Words())
    pairs = zip(predictions.gold, predictions.predicted, strict=True)
    scores = [scorer.score(gold, text) for gold, text in pairs]
    return {name: np.array([score[name].fmeasure for score in scores]) for name in names}


@metric(name="rouge1", title="ROUGE-1", kinds=_GENERATION)
def rouge1(predictions: Predictions) -> Floats:
    """Mean F-measure of words."""
    return _rouge(predictions)["rouge1"]


@metric(name="rouge2", title="ROUGE-2", kinds=_GENERATION)
def rouge2(predictions: Predictions) -> Floats:
    """Mean F-measure of pairs of words."""
    return _rouge(predictions)["rouge2"]


@metric(name="rougeL", title="ROUGE-L", kinds=_GENERATION)
def rouge_l(predictions: Predictions) -> Floats:
    """Mean F-measure by the longest common subsequence of words."""
    return _rouge(predictions)["rougeL"]


@metric(name="bleu", title="BLEU", kinds=_GENERATION)
def bleu(predictions: Predictions) -> Statistic:
    """Corpus BLEU by sacreBLEU (Papineni et al., 2002; Post, 2018), divided by 100.

    sacreBLEU's defaults: case counts, 13a tokenisation, exponential smoothing. In a resample
    (Koehn, 2004, "Statistical significance tests for machine translation evaluation") the n-gram
    counts of each row are summed anew.
    """
    from sacrebleu.metrics.bleu import BLEU

    # Only its counts are used; `effective_order` stops a warning about scores of single rows.
    counter = BLEU(effective_order=True)
    pairs = zip(predictions.gold, predictions.predicted, strict=True)
    rows = np.array([_ngrams(counter.sentence_score(text, [gold])) for gold, text in pairs])
    order = (rows.shape[1] - 2) // 2

    def statistic(weights: Floats) -> Floats:
        scores = [
            BLEU.compute_bleu(
                correct=row[2 : 2 + order],
                total=row[2 + order :],
                sys_len=row[0],
                ref_len=row[1],
                smooth_method="exp",
            ).score
            for row in (weights @ rows).round().astype(int).tolist()
        ]
        return np.minimum(np.array(scores) / 100, 1.0)

    return Statistic(statistic)


def _ngrams(score: Any) -> list[float]:
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]
