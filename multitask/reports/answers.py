"""The rows that a model answered, from predictions.parquet: mistakes, listings, confusions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from multitask.evaluation.calibration import FILE_NAME as CALIBRATION
from multitask.evaluation.calibration import TaskCalibration
from multitask.evaluation.calibration import load as load_calibrations
from multitask.files import read_parquet
from multitask.metrics.intervals import if_repeated
from multitask.metrics.probability import reliability_bins, score_matrix
from multitask.metrics.registry import log_softmax

Row = dict[str, Any]

MOST_LABELS = 120
"""Labels that a confusion matrix shows; of more, those with the most confusions."""

_TEXT_LIMIT = 600
_TOP = 3


def read_answers(
    task: str, labels: Sequence[str], rows: Mapping[str, Row], directory: Path
) -> tuple[list[Row], bool]:
    """Read a task's answers, a record a row, and whether their probabilities are calibrated.

    Args:
        task: The task's name.
        labels: Its labels; of multiple choice, the letters.
        rows: Its rows of the split, by id.
        directory: The evaluation.

    Returns:
        The columns of predictions.parquet, and beside them the row's ``text``, cut where it is
        long; the ``gold_name`` and ``predicted_name`` for people, of an option with its text;
        whether it is ``right``; ``top``, the most probable labels with their probabilities,
        and the prediction's probability as ``sureness``, None without scores.
    """
    path = directory / CALIBRATION
    calibration = load_calibrations(path).get(task) if path.is_file() else None
    table = read_parquet(directory / "predictions.parquet", filters=[("task", "=", task)])
    found: list[Row] = table.to_pylist()
    for record, top in zip(found, _top(found, labels, calibration), strict=True):
        row = rows.get(record["id"], {})
        text, confidence = str(row.get("text", "")), record.get("confidence")
        record |= {
            "text": text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "…",
            "gold_name": _named(row, record["gold"]),
            "predicted_name": _named(row, record["predicted"]),
            "right": record["gold"] == record["predicted"],
            "top": [(_named(row, label), share) for label, share in top],
            "sureness": top[0][1] if confidence is None and top else confidence,
        }
    return found, calibration is not None


def _top(
    records: Sequence[Row], labels: Sequence[str], calibration: TaskCalibration | None
) -> list[list[tuple[str, float]]]:
    """The most probable labels of each row; none of rows without scores."""
    found: list[list[tuple[str, float]]] = [[] for _ in records]
    scored = [i for i, record in enumerate(records) if record["scores"]]
    if not scored:
        return found
    names = list(calibration.labels if calibration else labels)
    visited = [records[i]["scores"] for i in scored]
    scores = score_matrix(
        [([e["label"] for e in row], [e["score"] for e in row]) for row in visited], names
    )
    residual = np.array([records[i].get("residual_mass") or 0.0 for i in scored])
    apply = calibration.calibrator.apply if calibration else log_softmax
    probabilities = np.exp(apply(scores, residual))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :_TOP]
    for place, i in enumerate(scored):
        best = [k for k in order[place] if np.isfinite(scores[place, k])]
        found[i] = [(names[k], float(probabilities[place, k])) for k in best]
    return found


def _named(row: Row, label: str | None) -> str:
    if label is None:
        return "no label"
    place = ord(label) - ord("A") if len(label) == 1 else -1
    choices = row.get("choices", ())
    if "asked" in row:
        return f"{row['asked']}: {label}"
    return f"{label}. {choices[place]}" if 0 <= place < len(choices) else label


def mistakes(answers: Iterable[Row], count: int) -> list[Row]:
    """The wrong answers that the model was surest of."""
    wrong = [row for row in answers if not row["right"]]
    return sorted(wrong, key=lambda row: (-(row["sureness"] or 0.0), row["id"]))[:count]


def listed(answers: Iterable[Row], size: int) -> tuple[int, str]:
    """As many rows as fit ``size`` bytes: the mistakes, then the least sure ones.

    Returns:
        How many rows, and JSON that can stand in a script element: ``names``, all labels there
        are, and ``rows``: text, right label, predicted one, the most probable ones with their
        probability in thousandths, whether it is handed over (1 or 0, null where not known), and
        id; labels by their place in ``names``.
    """
    places: dict[str, int] = {}
    names: list[str] = []
    lines: list[str] = []
    for row in sorted(answers, key=lambda row: (row["right"], row["sureness"] or 0.0)):
        line = _script_json(_cells(row, places))
        new = [_script_json(name) for name in islice(reversed(places), len(places) - len(names))]
        size -= sum(len(text.encode()) + 1 for text in (line, *new))
        if size < 0:
            break
        names += reversed(new)
        lines.append(line)
    return len(lines), f'{{"names":[{",".join(names)}],"rows":[{",".join(lines)}]}}'


def _cells(row: Row, places: dict[str, int]) -> list[object]:
    def place(name: str) -> int:
        return places.setdefault(name, len(places))

    top = [[place(label), round(1000 * share)] for label, share in row["top"]]
    gold, predicted = place(row["gold_name"]), place(row["predicted_name"])
    over = row.get("hand_over")
    return [row["text"], gold, predicted, top, None if over is None else int(over), row["id"]]


def _script_json(value: object) -> str:
    """JSON that cannot end a script element or start a comment in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def positions(answers: Sequence[Row], labels: Sequence[str]) -> list[tuple[str, float, float]]:
    """Of each option: its share of the right answers, and of the model's."""
    gold = Counter(row["gold"] for row in answers)
    predicted = Counter(row["predicted"] for row in answers)
    rows = max(1, len(answers))
    return [(label, gold[label] / rows, predicted[label] / rows) for label in labels]


def reliability(answers: Iterable[Row]) -> list[dict[str, Any]] | None:
    """Reliability with the calibrated confidences; None without any."""
    kept = [row for row in answers if row.get("confidence") is not None]
    if not kept:
        return None
    items = if_repeated([row["id"] for row in kept])
    right = np.array([row["right"] for row in kept])
    found = reliability_bins([row["confidence"] for row in kept], right, items)
    return [asdict(found_bin) for found_bin in found]


def confusion(answers: Iterable[Row], labels: Sequence[str]) -> dict[str, Any] | None:
    """The confusion matrix, ordered so that labels taken for each other stand together.

    Returns:
        The ``labels`` of rows (right) and columns (answered); each cell that is not empty, with
        its ``row``, ``column``, ``rows`` and ``share`` of the right label's; those that are
        ``mistaken``, the most frequent first; and how many labels are ``left_out``. Answers that
        are no label are not counted. None without rows.
    """
    codes = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for answer in answers:
        if answer["gold"] in codes and answer["predicted"] in codes:
            counts[codes[answer["gold"]], codes[answer["predicted"]]] += 1
    found = np.flatnonzero(counts.sum(0) + counts.sum(1))
    if not len(found):
        return None
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    chosen = found[np.argsort(-wrong[found], kind="stable")][:MOST_LABELS]
    chosen = chosen[_order(counts[np.ix_(chosen, chosen)])]
    part, support = counts[np.ix_(chosen, chosen)], counts.sum(1)[chosen]
    cells = [
        {
            "row": int(i),
            "column": int(j),
            "rows": int(part[i, j]),
            "share": float(part[i, j] / support[i]),
        }
        for i, j in zip(*np.nonzero(part), strict=True)
    ]
    mistaken = [cell for cell in cells if cell["row"] != cell["column"]]
    return {
        "labels": [labels[i] for i in chosen],
        "cells": cells,
        "mistaken": sorted(mistaken, key=lambda cell: -cell["rows"]),
        "left_out": len(found) - len(chosen),
    }


def _order(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Order labels by average-linkage clustering of how often they are confused.

    The leaves are ordered as by Bar-Joseph et al. (2001), "Fast optimal leaf ordering for
    hierarchical clustering".
    """
    size = len(counts)
    mutual = (counts + counts.T).astype(np.float64)
    np.fill_diagonal(mutual, 0)
    if size < 3 or not mutual.any():
        return np.arange(size)
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    support = np.maximum(1, counts.sum(1))
    distance = 1 / (1 + 10 * mutual / np.sqrt(np.outer(support, support)))
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    order: npt.NDArray[np.intp] = leaves_list(tree)
    return order
