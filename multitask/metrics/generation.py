"""Exact match, token F1, ROUGE and BLEU of generated texts, all from 0 to 1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from multitask.data.fingerprint import normalised, without_punctuation
from multitask.metrics.classification import accuracy
from multitask.metrics.counts import require_rows
from multitask.metrics.estimate import Clusters, Estimate, Floats, bootstrap, mean, means

ROUGE = ("rouge1", "rouge2", "rougeL")

_WORD = re.compile(r"[^\W_]+")


def exact_match(
    gold: Sequence[str],
    predicted: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Share of texts that equal the reference, ignoring case and white space.

    The interval is Wilson's, or a clustered bootstrap.

    Raises:
        ValueError: There are no rows, or the two differ in length.
    """
    return accuracy(
        [normalised(text) for text in gold],
        [normalised(text) for text in predicted],
        clusters=clusters,
        seed=seed,
    )


def token_f1(
    gold: Sequence[str],
    predicted: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Mean F1 of the words of each text against its reference.

    As in SQuAD (Rajpurkar et al., 2016), without dropping articles, so that it holds for any
    language with spaces. The interval is a percentile bootstrap over rows, or clusters of them.

    Raises:
        ValueError: There are no rows, or the two differ in length.
    """
    require_rows(gold, predicted)
    values = [_f1(g, p) for g, p in zip(gold, predicted, strict=True)]
    return mean(values, clusters=clusters, seed=seed)


def _f1(gold: str, predicted: str) -> float:
    one, two = without_punctuation(gold).split(), without_punctuation(predicted).split()
    if not one or not two:
        return float(one == two)
    return 2 * (Counter(one) & Counter(two)).total() / (len(one) + len(two))


class _Words:
    """Words of any script, case folded; of plain English, those of rouge-score itself."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.casefold())


def rouge(
    gold: Sequence[str],
    predicted: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """ROUGE-1, ROUGE-2 and ROUGE-L (C.-Y. Lin, 2004), mean F-measures by ``rouge-score``.

    Without stemming, which is for English alone, and with words of any script, where
    ``rouge-score`` would drop all but a-z and digits. Intervals are percentile bootstraps.

    Returns:
        ``rouge1``, ``rouge2`` and ``rougeL``.

    Raises:
        ValueError: There are no rows, or the two differ in length.
    """
    from rouge_score.rouge_scorer import RougeScorer

    require_rows(gold, predicted)
    scorer = RougeScorer(ROUGE, tokenizer=_Words())
    scores = [scorer.score(g, p) for g, p in zip(gold, predicted, strict=True)]
    columns = {name: [score[name].fmeasure for score in scores] for name in ROUGE}
    return bootstrap(means(columns), len(scores), clusters=clusters, seed=seed)


def bleu(
    gold: Sequence[str],
    predicted: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> Estimate:
    """Corpus BLEU by ``sacrebleu`` (Papineni et al., 2002; Post, 2018), divided by 100.

    sacreBLEU's defaults: case counts, 13a tokenisation, exponential smoothing. The interval is a
    percentile bootstrap over rows (Koehn, 2004, "Statistical significance tests for machine
    translation evaluation"), or clusters of them: the n-gram counts of each row are summed anew.

    Raises:
        ValueError: There are no rows, or the two differ in length.
    """
    from sacrebleu.metrics.bleu import BLEU

    require_rows(gold, predicted)
    # Only its counts are used; `effective_order` stops a warning about scores of single rows.
    counter = BLEU(effective_order=True)
    rows = np.array(
        [_ngrams(counter.sentence_score(p, [g])) for g, p in zip(gold, predicted, strict=True)]
    )

    def statistics(weights: Floats) -> dict[str, Floats]:
        summed = (weights @ rows).round().astype(int).tolist()
        order = (rows.shape[1] - 2) // 2
        scores = [
            BLEU.compute_bleu(
                correct=row[2 : 2 + order],
                total=row[2 + order :],
                sys_len=row[0],
                ref_len=row[1],
                smooth_method="exp",
            ).score
            for row in summed
        ]
        return {"bleu": np.minimum(np.array(scores) / 100, 1.0)}

    return bootstrap(statistics, len(rows), clusters=clusters, seed=seed)["bleu"]


def _ngrams(score: Any) -> list[float]:
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]
