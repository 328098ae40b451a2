"""The rows that a model answered, as a report shows them: mistakes, predictions, confusions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from multitask.data.render import Row
from multitask.evaluation.calibration import FILE_NAME, TaskCalibration
from multitask.evaluation.calibration import load as load_calibrations
from multitask.files import read_parquet
from multitask.metrics.intervals import if_repeated
from multitask.metrics.probability import (
    ReliabilityBin,
    log_softmax,
    reliability_bins,
    score_matrix,
)

TEXT_LIMIT = 600
"""Characters of a row's text that are shown."""

_TOP = 3


@dataclass(frozen=True)
class Answer:
    """A row and what the model answered.

    Attributes:
        id: The row's id.
        text: Its text, cut after :data:`TEXT_LIMIT` characters.
        gold: The right label; of a question, with the option's text.
        predicted: The model's.
        right: Whether they are the same.
        confidence: Calibrated probability of the prediction; None without scores.
        top: The most probable labels with their probabilities.
        hand_over: Whether the threshold leaves the row to a person; None without calibration.
    """

    id: str
    text: str
    gold: str
    predicted: str
    right: bool
    confidence: float | None
    top: tuple[tuple[str, float], ...]
    hand_over: bool | None


@dataclass(frozen=True)
class Listing:
    """Rows that the page's script puts into a table.

    Attributes:
        rows: How many there are.
        json: ``names``, all labels there are, and ``rows``: text, right label, predicted one, the
            most probable ones with their probability in thousandths, whether it is handed over
            (1 or 0, null where not known), and id; labels by their place in ``names``. It can
            stand in a script element.
    """

    rows: int
    json: str


def script_json(value: object) -> str:
    """JSON that cannot end a script element or start a comment in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _cells(row: Answer, places: dict[str, int]) -> list[object]:
    def place(name: str) -> int:
        return places.setdefault(name, len(places))

    top = [[place(label), round(1000 * share)] for label, share in row.top]
    over = None if row.hand_over is None else int(row.hand_over)
    return [row.text, place(row.gold), place(row.predicted), top, over, row.id]


@dataclass(frozen=True)
class Answers:
    """All answers of a task.

    Attributes:
        rows: One entry a row, in the order of the evaluation.
        gold: Right labels as the task names them.
        predicted: The model's; None: none of the labels.
        after: Reliability with the calibrated confidences; None without calibration.
        calibrated: Whether the probabilities are calibrated ones.
    """

    rows: list[Answer]
    gold: list[str]
    predicted: list[str | None]
    after: list[ReliabilityBin] | None
    calibrated: bool

    def mistakes(self, count: int) -> list[Answer]:
        """The wrong answers that the model was surest of."""
        wrong = [row for row in self.rows if not row.right]
        return sorted(wrong, key=lambda row: (-(row.confidence or 0.0), row.id))[:count]

    def listed(self, size: int) -> Listing:
        """As many rows as fit ``size`` bytes: the mistakes, then the least sure ones."""
        ordered = sorted(self.rows, key=lambda row: (row.right, row.confidence or 0.0))
        places: dict[str, int] = {}
        names: list[str] = []
        lines: list[str] = []
        for row in ordered:
            line = script_json(_cells(row, places))
            new = [script_json(name) for name in islice(reversed(places), len(places) - len(names))]
            size -= sum(len(text.encode()) + 1 for text in (line, *new))
            if size < 0:
                break
            names += reversed(new)
            lines.append(line)
        return Listing(len(lines), f'{{"names":[{",".join(names)}],"rows":[{",".join(lines)}]}}')

    def positions(self, labels: Sequence[str]) -> list[tuple[str, float, float]]:
        """Of each option: its share of the right answers, and of the model's."""
        gold, predicted = Counter(self.gold), Counter(self.predicted)
        rows = max(1, len(self.rows))
        return [(label, gold[label] / rows, predicted[label] / rows) for label in labels]


def read_answers(
    task: str, labels: Sequence[str], rows: Mapping[str, Row], directory: Path
) -> Answers:
    """Read a task's answers.

    Args:
        task: The task's name.
        labels: Its labels; of multiple choice, the letters.
        rows: Its rows of the split, by id.
        directory: The evaluation.
    """
    table = read_parquet(directory / "predictions.parquet", filters=[("task", "=", task)])
    found = table.to_pylist()
    calibration = _calibration(task, directory)
    top = _top(found, labels, calibration)
    answers = [
        _answer(record, rows.get(record["id"], {}), best)
        for record, best in zip(found, top, strict=True)
    ]
    gold = [record["gold"] for record in found]
    predicted = [record["predicted"] for record in found]
    return Answers(
        rows=answers,
        gold=gold,
        predicted=predicted,
        after=_after(found) if calibration else None,
        calibrated=calibration is not None,
    )


def _calibration(task: str, directory: Path) -> TaskCalibration | None:
    path = directory / FILE_NAME
    return load_calibrations(path).get(task) if path.is_file() else None


def _top(
    records: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    calibration: TaskCalibration | None,
) -> list[tuple[tuple[str, float], ...]]:
    """The most probable labels of each row; none of rows without scores."""
    scored = [i for i, record in enumerate(records) if record["scores"]]
    found: list[tuple[tuple[str, float], ...]] = [()] * len(records)
    if not scored:
        return found
    names = list(calibration.labels if calibration else labels)
    scores = score_matrix(
        [
            (
                [entry["label"] for entry in records[i]["scores"]],
                [entry["score"] for entry in records[i]["scores"]],
            )
            for i in scored
        ],
        names,
    )
    relative = np.array([records[i].get("unvisited") or 0.0 for i in scored])
    unvisited = relative / (1 + relative)
    apply = calibration.calibrator.apply if calibration else log_softmax
    probabilities = np.exp(apply(scores, unvisited))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :_TOP]
    for place, i in enumerate(scored):
        found[i] = tuple(
            (names[k], float(probabilities[place, k]))
            for k in order[place]
            if np.isfinite(scores[place, k])
        )
    return found


def _answer(record: Mapping[str, Any], row: Row, top: tuple[tuple[str, float], ...]) -> Answer:
    confidence = record.get("confidence")
    if confidence is None and top:
        confidence = top[0][1]
    text = str(row.get("text", ""))
    return Answer(
        id=record["id"],
        text=text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "…",
        gold=_named(row, record["gold"]),
        predicted=_named(row, record["predicted"]),
        right=record["gold"] == record["predicted"],
        confidence=confidence,
        top=tuple((_named(row, label), share) for label, share in top),
        hand_over=record.get("hand_over"),
    )


def _named(row: Row, label: str | None) -> str:
    if label is None:
        return "no label"
    place = ord(label) - ord("A") if len(label) == 1 else -1
    choices = row.get("choices", ())
    return f"{label}. {choices[place]}" if 0 <= place < len(choices) else label


def _after(records: Sequence[Mapping[str, Any]]) -> list[ReliabilityBin] | None:
    kept = [record for record in records if record.get("confidence") is not None]
    if not kept:
        return None
    items = if_repeated([record["id"] for record in kept])
    right = np.array([record["gold"] == record["predicted"] for record in kept])
    return reliability_bins([record["confidence"] for record in kept], right, items)
