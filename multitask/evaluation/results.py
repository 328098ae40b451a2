"""What the answers of a task come to: metrics with intervals, and where it errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from multitask.data.render import Row
from multitask.evaluation.calibrate import clusters_of, matrix, residual_mass
from multitask.evaluation.parts import BASELINES, Prediction, Purpose
from multitask.evaluation.settings import Settings
from multitask.evaluation.work import Finished
from multitask.metrics.classification import count_metrics
from multitask.metrics.counts import gold_codes
from multitask.metrics.estimate import Estimate
from multitask.metrics.kinds import (
    Rotations,
    classification_metrics,
    generation_metrics,
    multiple_choice_metrics,
    option_metrics,
    rarer_label,
)
from multitask.metrics.parse import off_list_rate, parse_labels, parse_letter
from multitask.metrics.per_label import confusion_matrix, per_label
from multitask.metrics.probabilities import top
from multitask.metrics.reliability import reliability_bins
from multitask.scoring.score import answered_by
from multitask.tasks import Kind, Task

Parts = Mapping[Purpose, Finished]

# Pairs of labels that are taken for each other, the most frequent ones.
_CONFUSIONS = 200


def task_results(task: Task, parts: Parts, settings: Settings) -> dict[str, Any]:
    """Everything that results.json says of a task but calibration and comparisons."""
    main = parts[Purpose.SCORES]
    predictions = main.predictions
    record: dict[str, Any] = {
        "kind": str(task.kind),
        "n": len(predictions),
        "seconds": main.seconds,
        "metrics": _records(_metrics(task, parts, predictions, settings)),
        "truncated": {
            "rows": sum(p.dropped > 0 for p in predictions),
            "tokens": sum(p.dropped for p in predictions),
        },
        "baselines": _baselines(task, parts, predictions),
        "part_seconds": {str(purpose): part.seconds for purpose, part in parts.items()},
    }
    if task.kind is not Kind.GENERATION and _has_distribution(task, settings):
        left = residual_mass(predictions)
        record["unvisited"] = {"mean": float(left.mean()), "max": float(left.max())}
        record["reliability"] = _reliability(task, predictions)
    if task.kind is Kind.CLASSIFICATION:
        record |= _by_label(task, predictions)
    if "pr_auc" in record["metrics"]:
        gold = [p.gold for p in predictions]
        record["positive_label"] = task.positive_label or rarer_label(gold, task.labels)
    if task.kind is Kind.MULTIPLE_CHOICE:
        record["repeated_options"] = _repeated(main.part.rows)
    if Purpose.GENERATED in parts:
        record["generated"] = _generated(task, parts[Purpose.GENERATED], main)
    return record


def _has_distribution(task: Task, settings: Settings) -> bool:
    # The few options of a question are all scored in any case.
    return settings.distribution or task.kind is Kind.MULTIPLE_CHOICE


def _metrics(
    task: Task, parts: Parts, predictions: Sequence[Prediction], settings: Settings
) -> dict[str, Estimate]:
    gold, predicted = _answers(predictions)
    clusters = clusters_of(predictions)
    if task.kind is Kind.GENERATION:
        return generation_metrics(gold, predicted, clusters=clusters)
    scores = matrix(predictions, task.labels) if _has_distribution(task, settings) else None
    if task.kind is Kind.CLASSIFICATION:
        return classification_metrics(
            gold,
            predicted,
            task.labels,
            scores,
            positive=task.positive_label,
            clusters=clusters,
        )
    rotations = _rotations(parts[Purpose.ROTATIONS]) if Purpose.ROTATIONS in parts else None
    found = multiple_choice_metrics(
        gold, predicted, task.labels, scores, rotations=rotations, clusters=clusters
    )
    if Purpose.OTHER_WAY in parts:
        found |= _both_ways(task, parts)
    return found


def _answers(predictions: Sequence[Prediction]) -> tuple[list[str], list[str]]:
    return [p.gold for p in predictions], [p.predicted for p in predictions]


def _records(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: estimate.record() for name, estimate in metrics.items()}


def _both_ways(task: Task, parts: Parts) -> dict[str, Estimate]:
    """Accuracy by letter, by text, and by text per character."""
    ways = {task.answers: parts[Purpose.SCORES]}
    ways[answered_by(task, "text" if task.answers == "letter" else "letter").answers] = parts[
        Purpose.OTHER_WAY
    ]
    by_letter, by_text = ways["letter"].predictions, ways["text"].predictions
    return option_metrics(
        [p.gold for p in by_text],
        [p.predicted for p in by_letter],
        [p.log_probs.tolist() for p in by_text],
        [row["choices"] for row in ways["text"].part.rows],
        clusters=clusters_of(by_text),
    )


def _rotations(part: Finished) -> Rotations:
    predictions, rows = part.predictions, part.part.rows
    scores, gold, contents = [], [], []
    place = 0
    while place < len(rows):
        count = len(rows[place]["choices"])
        asked = predictions[place : place + count]
        scores.append([p.log_probs.tolist() for p in asked])
        gold.append(ord(asked[0].gold) - ord("A"))
        contents.append(list(rows[place]["choices"]))
        place += count
    return Rotations(scores, gold, contents)


def _repeated(rows: Sequence[Row]) -> dict[str, int]:
    """Questions that repeat an option's text, and those of them where gold's is repeated."""
    repeated = [row for row in rows if len(set(row["choices"])) < len(row["choices"])]
    of_gold = [
        row
        for row in repeated
        if list(row["choices"]).count(row["choices"][ord(row["answer"]) - ord("A")]) > 1
    ]
    return {"rows": len(repeated), "gold_rows": len(of_gold)}


def _reliability(task: Task, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    best, confidence = top(matrix(predictions, task.labels))
    right = best == gold_codes([p.gold for p in predictions], task.labels)
    bins = reliability_bins(confidence, right, clusters=clusters_of(predictions))
    return [asdict(found) for found in bins]


def _by_label(task: Task, predictions: Sequence[Prediction]) -> dict[str, Any]:
    gold, predicted = _answers(predictions)
    found = per_label(gold, predicted, task.labels, clusters=clusters_of(predictions))
    counts = confusion_matrix(gold, predicted, task.labels)
    np.fill_diagonal(counts, 0)
    pairs = sorted(zip(*np.nonzero(counts), strict=True), key=lambda p: (-counts[p], p))
    return {
        "per_label": [asdict(scores) for scores in found if scores.support or scores.predicted],
        "confusions": [
            {"gold": task.labels[g], "predicted": task.labels[p], "rows": int(counts[g, p])}
            for g, p in pairs[:_CONFUSIONS]
        ],
    }


def _baselines(
    task: Task, parts: Parts, predictions: Sequence[Prediction]
) -> dict[str, dict[str, Any]]:
    if Purpose.BASELINES not in parts:
        return {}
    gold, clusters = [p.gold for p in predictions], clusters_of(predictions)
    choice = task.kind is Kind.MULTIPLE_CHOICE
    metrics = multiple_choice_metrics if choice else classification_metrics
    return {
        name: _records(metrics(gold, answers, task.labels, clusters=clusters))
        for name, answers in baseline_answers(parts[Purpose.BASELINES]).items()
    }


def baseline_answers(part: Finished) -> dict[str, list[str]]:
    """What each baseline answers to the rows."""
    return {name: [record[name] for record in part.records] for name in BASELINES}


def parsed_answers(task: Task, part: Finished) -> list[str | None]:
    """The label that each freely generated answer names; None: off-list.

    By the rules of :mod:`multitask.metrics.parse`; a label is named by its whole response in the
    row's phrasing, or by itself.
    """
    parsed: list[str | None] = []
    known: dict[str, tuple[tuple[str, ...], list[str]]] = {}
    for row, record in zip(part.part.rows, part.records, strict=True):
        text, choices = record["predicted"], tuple(row.get("choices", ()))
        if choices and task.answers == "letter":
            parsed.append(parse_letter(text, len(choices)))
            continue
        if choices or row["template"] not in known:
            labels, template = task.candidates(choices), task.template(row["template"])
            responses = [task.response_for(label, template, choices=choices) for label in labels]
            known[row["template"]] = labels, responses
        labels, responses = known[row["template"]]
        (named,) = parse_labels([text], responses)
        if named is not None:
            parsed.append(labels[responses.index(named)])
        else:
            parsed += [None] if choices else parse_labels([text], labels)
    return parsed


def _generated(task: Task, part: Finished, main: Finished) -> dict[str, Any]:
    """Metrics of free answers, and of the closed label set on the same rows."""
    parsed = parsed_answers(task, part)
    free = part.predictions
    gold, clusters = [p.gold for p in free], clusters_of(free)
    names = ("accuracy", "macro_f1")
    closed = {
        (row["id"], row["template"]): record["predicted"]
        for row, record in zip(main.part.rows, main.records, strict=True)
    }
    same: list[str | None] = [closed[row["id"], row["template"]] for row in part.part.rows]
    metrics = count_metrics(gold, parsed, task.labels, names=names, clusters=clusters)
    metrics["off_list_rate"] = off_list_rate(parsed, clusters=clusters)
    of_closed = count_metrics(gold, same, task.labels, names=names, clusters=clusters)
    return {
        "n": len(free),
        "seconds": part.seconds,
        "metrics": _records(metrics),
        "closed_set": _records(of_closed),
    }
