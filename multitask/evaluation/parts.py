"""What is put to a model: the rows of every task, in every way that an evaluation wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.data.render import Row, gold
from multitask.errors import InputError
from multitask.evaluation.baselines import majority, tfidf_logistic_regression
from multitask.evaluation.settings import Settings
from multitask.metrics.probability import TOP_K
from multitask.scoring.score import requests_of
from multitask.scoring.scorer import Scorer, Scores
from multitask.tasks import Task

Advance = Callable[[int], None]
Record = dict[str, Any]

BASELINES = {"majority": majority, "tfidf_logistic_regression": tfidf_logistic_regression}

# Log-probability, against the best label's, below which a label on a branch not read is not kept.
_NEGLIGIBLE = -25.0

# Inputs that say nothing, by Zhao et al., 2021.
_CONTENT_FREE = ("N/A", "", "[MASK]")
# Generated answers may ramble a little beyond the longest label before they are cut.
_RAMBLE = 16
_GENERATED_BLOCK = 64


class Purpose(StrEnum):
    """Why rows are put to the model.

    Attributes:
        SCORES: The answers that the evaluation is about.
        OTHER_WAY: Multiple choice answered by text where the task answers by letter, or the
            other way round.
        ROTATIONS: Multiple choice in every cyclic order of its options.
        GENERATED: Free answers to rows of a closed label set.
        VALIDATION: Validation rows, for calibration.
        CONTENT_FREE: Rows without content, for contextual calibration.
        BASELINES: The same rows to the baselines.
    """

    SCORES = "scores"
    OTHER_WAY = "other way"
    ROTATIONS = "rotations"
    GENERATED = "generated"
    VALIDATION = "validation"
    CONTENT_FREE = "content-free"
    BASELINES = "baselines"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model answers to one row.

    Attributes:
        id: The row's id.
        gold: The right answer.
        predicted: The label with the highest score; of a generated answer, the text.
        labels: The labels that the row can have; empty for a generated answer.
        log_probs: Log-likelihood of each of them; -inf where it is negligible.
        scored: Which of these are the labels' own; see `multitask.scoring.scorer.Scores`.
        residual_mass: Bound of the share of the probability that lies on labels not scored.
        dropped: Tokens of the prompt that were left out, because it was longer than the context.
    """

    id: str
    gold: str
    predicted: str
    labels: tuple[str, ...]
    log_probs: NDArray[np.float64]
    scored: NDArray[np.bool_]
    residual_mass: float
    dropped: int


@dataclass(frozen=True)
class Part:
    """Rows of one task for one purpose.

    Attributes:
        task: The definition that made these rows.
        purpose: What they are for.
        rows: The rows.
        unvisited: As the scorer takes it.
        max_new_tokens: Longest generated answer; None: a little more than the longest label.
        train: The training rows, for baselines.
    """

    task: Task
    purpose: Purpose
    rows: Sequence[Row]
    unvisited: float | None = 0.0
    max_new_tokens: int | None = None
    train: Callable[[], Sequence[Row]] = tuple

    @property
    def title(self) -> str:
        """What a progress bar calls it."""
        scores = self.purpose is Purpose.SCORES
        return self.task.name if scores else f"{self.task.name}, {self.purpose}"

    @property
    def _generates(self) -> bool:
        return self.purpose is Purpose.GENERATED or not self.task.kind.closed

    def blocks(self, size: int) -> list[tuple[int, ...]]:
        """Places of the rows that go together: of the same phrasing, and of like length."""
        places = range(len(self.rows))
        if self.purpose is Purpose.BASELINES:
            return [tuple(places)]
        if self._generates:
            size = min(size, _GENERATED_BLOCK)
        order = sorted(places, key=self._phrasing_and_length)
        return [tuple(order[i : i + size]) for i in range(0, len(order), size)]

    def _phrasing_and_length(self, place: int) -> tuple[str, int, int]:
        row = self.rows[place]
        return row["template"], -len(row["messages"][0]["content"]), place

    def run(self, scorer: Scorer, places: Sequence[int], advance: Advance) -> list[Record]:
        """Put rows to the model.

        Returns:
            One record per row, plain data; `prediction` reads it.
        """
        rows = [self.rows[place] for place in places]
        if self.purpose is Purpose.BASELINES:
            train = self.train()
            answers = {name: baseline(train, rows) for name, baseline in BASELINES.items()}
            advance(len(rows))
            return [{name: answers[name][i] for name in answers} for i in range(len(rows))]
        requests = requests_of(self.task, rows)
        if self._generates:
            tokens = self.max_new_tokens
            if tokens is None:
                template = self.task.templates[0]
                responses = [self.task.response_for(label, template) for label in self.task.labels]
                tokens = scorer.longest(responses) + _RAMBLE
            found = scorer.generate(requests, max_new_tokens=tokens, progress=advance)
        else:
            found = scorer.score(
                requests,
                max_residual=self.unvisited,
                ranks=max((k for k in TOP_K if k < len(self.task.labels)), default=0),
                progress=advance,
            )
        return records_of(self.task, found)

    def prediction(self, place: int, record: Record) -> Prediction:
        """The prediction of a row from its record.

        Raises:
            KeyError: It is no record of such a row.
            IndexError: Likewise.
        """
        row = self.rows[place]
        labels = () if self._generates else self.task.candidates(tuple(row.get("choices", ())))
        log_probs, scored = np.full(len(labels), -np.inf), np.zeros(len(labels), bool)
        for label, value in record.get("scores", ()):
            log_probs[label], scored[label] = value, True
        for value, members in record.get("shares", ()):
            log_probs[members] = value
        return Prediction(
            id=row["id"],
            gold=gold(row),
            predicted=record["predicted"],
            labels=labels,
            log_probs=log_probs,
            scored=scored,
            residual_mass=record["residual_mass"],
            dropped=record["dropped"],
        )


def records_of(task: Task, scores: Scores) -> list[Record]:
    """Scores as plain data, one record a row; `Part.prediction` reads one."""
    records: list[Record] = []
    for i in range(len(scores)):
        record: Record = {
            "predicted": scores.texts[i] if scores.texts else task.labels[scores.best[i]],
            "residual_mass": float(scores.residual_mass[i]),
            "dropped": int(scores.dropped[i]),
        }
        if not scores.texts:
            # Most labels of a large set are never visited.
            known, log_probs = scores.scored[i], scores.log_probs[i]
            places = np.flatnonzero(known).tolist()
            record["scores"] = list(zip(places, log_probs[known].tolist(), strict=True))
            kept = ~known & (log_probs > log_probs[known].max() + _NEGLIGIBLE)
            branches: dict[float, list[int]] = {}
            for label in np.flatnonzero(kept).tolist():
                branches.setdefault(float(log_probs[label]), []).append(label)
            if branches:
                record["shares"] = list(branches.items())
        records.append(record)
    return records


def parts_of(
    task: Task,
    rows: Sequence[Row],
    settings: Settings,
    *,
    validation: Sequence[Row] = (),
    train: Callable[[], Sequence[Row]] = tuple,
) -> Iterator[Part]:
    """Everything that an evaluation puts to a model about one task.

    Args:
        task: The task.
        rows: The rows to evaluate.
        settings: What is wanted.
        validation: Rows to calibrate on; none: no calibration.
        train: Reads the training rows, for the baselines.

    Raises:
        InputError: The task has no rows.
    """
    if not rows:
        raise InputError(f"task {task.name!r} has no rows in this split")
    if not task.kind.closed:
        yield Part(task, Purpose.SCORES, rows, max_new_tokens=settings.max_new_tokens)
        return
    # A prior divides label by label, so the tail's sum is not enough for it.
    prior = settings.distribution and settings.calibration == "contextual"
    unvisited = 0.0 if task.kind.exhaustive or prior else settings.wanted
    yield Part(task, Purpose.SCORES, rows, unvisited)
    if validation:
        yield Part(task, Purpose.VALIDATION, validation, unvisited)
        if settings.calibration == "contextual":
            yield Part(task, Purpose.CONTENT_FREE, content_free(task))
    for purpose, asked, others in task.kind.asked_otherwise(task, rows, settings):
        yield Part(asked, Purpose(purpose), others)
    if settings.generate:
        own = task.kind.own_responses(task)
        yield Part(
            task,
            Purpose.GENERATED,
            spread(rows, settings.generate),
            max_new_tokens=settings.max_new_tokens if own else None,
        )
    if settings.baselines:
        yield Part(task, Purpose.BASELINES, rows, train=train)


def content_free(task: Task) -> list[Row]:
    """Rows that say nothing, in every phrasing of a task; gold labels mean nothing here."""
    rows = []
    for template in task.templates:
        for i, text in enumerate(_CONTENT_FREE):
            example = task.kind.without_content(task, text)._replace(id=f"content-free {i}")
            row: Row = {
                "messages": [
                    {"role": "user", "content": task.prompt(example, template)},
                    {"role": "assistant", "content": task.response(example, template)},
                ],
                "task": task.name,
                "id": example.id,
                "template": template.name,
                "text": text,
                task.kind.gold_key: example.label,
            }
            rows.append(row | ({"choices": example.choices} if example.choices else {}))
    return rows


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """At most ``count`` rows, evenly spaced: files are often sorted by class."""
    if count >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]
