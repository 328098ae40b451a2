"""Which metrics a kind of task has, and one function a kind that computes them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from multitask.metrics.classification import accuracy, count_metrics
from multitask.metrics.counts import gold_codes
from multitask.metrics.estimate import Clusters, Estimate
from multitask.metrics.generation import bleu, exact_match, rouge, token_f1
from multitask.metrics.multiple_choice import position_bias, rotation_metrics
from multitask.metrics.parse import off_list_rate, parse_labels, parse_letter
from multitask.metrics.probabilities import normalised, probability_metrics, top, top_k_accuracy
from multitask.metrics.ranking import ranking_metrics
from multitask.metrics.reliability import expected_calibration_error
from multitask.tasks import letter

TOP_K = (3, 5)


@dataclass(frozen=True)
class Metric:
    """What a report says of a metric.

    Attributes:
        title: Its name in tables.
        higher_is_better: Or lower.
        is_share: Whether it is a share of rows or a mean of such, to be shown in percent.
    """

    title: str
    higher_is_better: bool = True
    is_share: bool = True


METRICS: dict[str, Metric] = {
    "accuracy": Metric("Accuracy"),
    "macro_f1": Metric("Macro-F1"),
    "balanced_accuracy": Metric("Balanced accuracy"),
    "weighted_f1": Metric("Weighted F1"),
    "micro_f1": Metric("Micro-F1"),
    "mcc": Metric("Matthews correlation", is_share=False),
    "cohen_kappa": Metric("Cohen's kappa", is_share=False),
    "top_3_accuracy": Metric("Top-3 accuracy"),
    "top_5_accuracy": Metric("Top-5 accuracy"),
    "log_loss": Metric("Log loss", higher_is_better=False, is_share=False),
    "brier": Metric("Brier score", higher_is_better=False, is_share=False),
    "ece": Metric("Expected calibration error", higher_is_better=False),
    "roc_auc": Metric("ROC-AUC", is_share=False),
    "pr_auc": Metric("PR-AUC", is_share=False),
    "letter_accuracy": Metric("Accuracy by option letter"),
    "text_accuracy": Metric("Accuracy by option text"),
    "text_accuracy_normalised": Metric("Accuracy by option text, per character"),
    "rotated_accuracy": Metric("Accuracy over all option orders"),
    "averaged_accuracy": Metric("Accuracy, averaged over option orders"),
    "consistency": Metric("Consistency over option orders"),
    "position_bias": Metric("Position bias", higher_is_better=False),
    "off_list_rate": Metric("Off-list answers", higher_is_better=False),
    "exact_match": Metric("Exact match"),
    "token_f1": Metric("Token F1"),
    "rouge1": Metric("ROUGE-1"),
    "rouge2": Metric("ROUGE-2"),
    "rougeL": Metric("ROUGE-L"),
    "bleu": Metric("BLEU"),
}
"""Every metric by its key in results.json, in the order of tables."""


def classification_metrics(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    labels: Sequence[str],
    log_probs: npt.ArrayLike | None = None,
    *,
    unvisited: npt.ArrayLike | None = None,
    positive: str | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric of a classification.

    Args:
        gold: Gold labels.
        predicted: Predicted labels; None or anything that is no label is off-list.
        labels: The label space, in the order of the columns of ``log_probs``.
        log_probs: Log-likelihoods of shape (rows, labels), NaN or -inf where not scored; without
            them there are no metrics of probabilities.
        unvisited: Bound of the share of each row's mass on labels not scored.
        positive: With two labels, the one that ROC-AUC and PR-AUC look for; default:
            :func:`rarer_label`. ROC-AUC is the same for both labels, PR-AUC is not.
        clusters: The item of every row, where items have several (one row per template, say).
        seed: Seeds the bootstraps.

    Returns:
        Metrics by their key in :data:`METRICS`, accuracy first. ``top_k_accuracy`` is there where
        there are more than k labels; ROC-AUC and PR-AUC where there are two labels and gold rows
        of both.

    Raises:
        ValueError: As the metrics: no rows, lengths or shapes that do not fit, a gold answer that
            is no label, or scores that are no log-likelihoods.
    """
    found = count_metrics(gold, predicted, labels, clusters=clusters, seed=seed)
    if log_probs is None:
        return found
    for k in TOP_K:
        if k < len(labels):
            found[f"top_{k}_accuracy"] = top_k_accuracy(
                gold, log_probs, labels, k=k, clusters=clusters, seed=seed
            )
    scores = normalised(log_probs, unvisited)
    found |= _calibration_metrics(gold, scores, labels, clusters, seed)
    if len(labels) == 2 and len(set(gold)) == 2:
        wanted = rarer_label(gold, labels) if positive is None else positive
        column = list(labels).index(wanted)
        found |= ranking_metrics(
            [label == wanted for label in gold], scores[:, column], clusters=clusters, seed=seed
        )
    return found


def rarer_label(gold: Sequence[str], labels: Sequence[str]) -> str:
    """The label that fewer rows have, the later one of equals: what a detector looks for.

    Of the common label a random score has a PR-AUC near 1.
    """
    counts = Counter(gold)
    return min(reversed(labels), key=lambda label: counts[label])


def _calibration_metrics(
    gold: Sequence[str],
    log_probs: npt.NDArray[np.float64],
    labels: Sequence[str],
    clusters: Clusters | None,
    seed: int,
) -> dict[str, Estimate]:
    best, confidence = top(log_probs)
    right = best == gold_codes(gold, labels)
    return {
        **probability_metrics(gold, log_probs, labels, clusters=clusters, seed=seed),
        "ece": expected_calibration_error(confidence, right, clusters=clusters, seed=seed),
    }


@dataclass(frozen=True)
class Rotations:
    """Questions that were asked with their options in every cyclic order.

    Attributes:
        scores: Of each question, log-scores of positions: shape (rotations, positions).
        gold: Of each question, its right option, counted from 0.
        contents: Of each question, its option texts.
    """

    scores: Sequence[npt.ArrayLike]
    gold: Sequence[int]
    contents: Sequence[Sequence[Hashable]]


def multiple_choice_metrics(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    letters: Sequence[str],
    log_probs: npt.ArrayLike | None = None,
    *,
    rotations: Rotations | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric of a multiple choice, whose labels are the letters of its options.

    Args:
        gold: Gold letters.
        predicted: Predicted letters; None is off-list.
        letters: Every letter that there is, in the order of the columns of ``log_probs``.
        log_probs: Log-likelihoods of shape (rows, letters); NaN or -inf for options that a question
            does not have.
        rotations: The questions in every cyclic order, where they were asked so; position bias
            is then measured on these, where gold is at every position equally often.
        clusters: The item of every row, where items have several.
        seed: Seeds the bootstraps.

    Returns:
        Metrics by their key in :data:`METRICS`, accuracy first. ``position_bias`` is there unless
        every answer is off-list.

    Raises:
        ValueError: As the metrics.
    """
    names = ("accuracy", "macro_f1")
    found = count_metrics(gold, predicted, letters, names=names, clusters=clusters, seed=seed)
    if log_probs is not None:
        scores = normalised(log_probs)
        found |= _calibration_metrics(gold, scores, letters, clusters, seed)
    if rotations is not None:
        found |= rotation_metrics(
            rotations.scores, rotations.gold, contents=rotations.contents, seed=seed
        )
    elif set(predicted) & set(letters):
        found["position_bias"] = position_bias(
            gold, predicted, letters, clusters=clusters, seed=seed
        )
    return found


def option_metrics(
    gold: Sequence[str],
    by_letter: Sequence[str | None],
    text_scores: Sequence[npt.ArrayLike],
    contents: Sequence[Sequence[str]],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Accuracy of a multiple choice that is answered both by letter and by the option's text.

    Long options have low log-likelihoods for their length alone: divided by their characters
    (as lm-evaluation-harness does for ``acc_norm``), they can win. Of options with the same text
    the first is taken, whichever is gold: only the letter tells them apart.

    Args:
        gold: Gold letters.
        by_letter: Letters answered when the letter is asked for.
        text_scores: Of each question, the log-likelihoods of its options' texts.
        contents: Of each question, its option texts.
        clusters: The item of every row, where items have several.
        seed: Seeds the bootstraps.

    Returns:
        ``letter_accuracy``, ``text_accuracy`` and ``text_accuracy_normalised``.

    Raises:
        ValueError: There are no rows, or the sequences differ in length.
    """
    by_text, per_character = [], []
    for scores, texts in zip(text_scores, contents, strict=True):
        found = np.asarray(scores, dtype=np.float64)
        by_text.append(letter(int(found.argmax())))
        lengths = np.array([max(1, len(text)) for text in texts])
        per_character.append(letter(int((found / lengths).argmax())))
    answers = {
        "letter_accuracy": by_letter,
        "text_accuracy": by_text,
        "text_accuracy_normalised": per_character,
    }
    return {
        name: accuracy(gold, predicted, clusters=clusters, seed=seed)
        for name, predicted in answers.items()
    }


def generated_label_metrics(
    gold: Sequence[str],
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    options: Sequence[int] | None = None,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Metrics of labels or letters that were generated freely, as users deploy them.

    Args:
        gold: Gold labels or letters.
        texts: What was generated; read by the rules of :mod:`multitask.metrics.parse`.
        labels: The label space.
        options: Of multiple-choice questions answered by letter, how many options each has.
        clusters: The item of every row, where items have several.
        seed: Seeds the bootstraps.

    Returns:
        ``accuracy`` and ``macro_f1`` with off-list answers as wrong, and ``off_list_rate``.

    Raises:
        ValueError: As the metrics.
    """
    if options is None:
        parsed = parse_labels(texts, labels)
    else:
        parsed = [parse_letter(text, n) for text, n in zip(texts, options, strict=True)]
    names = ("accuracy", "macro_f1")
    found = count_metrics(gold, parsed, labels, names=names, clusters=clusters, seed=seed)
    found["off_list_rate"] = off_list_rate(parsed, clusters=clusters, seed=seed)
    return found


def generation_metrics(
    gold: Sequence[str],
    texts: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric of generated texts against their references, exact match first.

    Raises:
        ValueError: There are no rows, or the sequences differ in length.
    """
    return {
        "exact_match": exact_match(gold, texts, clusters=clusters, seed=seed),
        "token_f1": token_f1(gold, texts, clusters=clusters, seed=seed),
        **rouge(gold, texts, clusters=clusters, seed=seed),
        "bleu": bleu(gold, texts, clusters=clusters, seed=seed),
    }
