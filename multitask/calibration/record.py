"""``calibration.json``: beside a model, how to read its scores and when not to trust them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from multitask.calibration.abstention import TARGET_PRECISION, Rule, choose_threshold
from multitask.calibration.calibrator import Calibrator, fit_temperature
from multitask.errors import InputError
from multitask.files import read_json
from multitask.metrics.counts import gold_codes, label_index
from multitask.metrics.estimate import Clusters, Estimate
from multitask.metrics.probabilities import normalised, top
from multitask.run import write_atomic

FILE_NAME = "calibration.json"

Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ShareRecord(_Strict):
    """A share with its 95 % interval."""

    value: Share
    low: Share
    high: Share


@dataclass(frozen=True)
class Decision:
    """What to do with one row.

    Attributes:
        label: The answer, or None: hand over to a person.
        best: The most probable label, also where it is handed over.
        confidence: Its calibrated probability.
    """

    label: str | None
    best: str
    confidence: float

    @property
    def hand_over(self) -> bool:
        """Whether a person should decide."""
        return self.label is None


class TaskCalibration(_Strict):
    """How to read a model's scores on one task.

    Attributes:
        task: The task's name.
        labels: The label space, in the order of the scores.
        method: How the calibrator was fitted.
        temperature: Its temperature.
        log_prior: Its prior, one number per label, or none.
        target_precision: The precision wanted of answers that are not handed over.
        rule: What had to reach it on validation.
        threshold: Least confidence of an answer; none where no threshold reaches the target, so
            that every row is handed over.
        validation_rows: How many rows all this was fitted on.
        expected_precision: Precision of the answered validation rows; none where there are none.
        expected_coverage: Share of validation rows that is answered.
    """

    task: str
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    method: str
    temperature: Annotated[float, Field(gt=0)]
    log_prior: tuple[float, ...] | None = None
    target_precision: Annotated[float, Field(gt=0, le=1)]
    rule: Rule
    threshold: Share | None
    validation_rows: Annotated[int, Field(ge=1)]
    expected_precision: ShareRecord | None
    expected_coverage: ShareRecord

    @model_validator(mode="after")
    def _of_one_label_space(self) -> TaskCalibration:
        label_index(self.labels)
        if self.log_prior is not None and len(self.log_prior) != len(self.labels):
            raise ValueError(f"{len(self.log_prior)} priors for {len(self.labels)} labels")
        return self

    @property
    def calibrator(self) -> Calibrator:
        """What turns log-likelihoods into calibrated log-probabilities."""
        return Calibrator(self.method, self.temperature, self.log_prior)

    def decide(
        self, scores: Sequence[float] | Mapping[str, float], *, unvisited: float | None = None
    ) -> Decision:
        """Answer one row, or hand it over.

        Args:
            scores: Log-likelihood of every label, in the order of ``labels`` or by name; labels
                that are left out, -inf or NaN were not scored.
            unvisited: Bound of the share of mass on labels not scored.

        Raises:
            ValueError: Another number of scores than labels, or scores that are no
                log-likelihoods.
            KeyError: A score of a label that the task does not have.
        """
        index = label_index(self.labels)
        if isinstance(scores, Mapping):
            row = np.full(len(self.labels), np.nan)
            for label, score in scores.items():
                row[index[label]] = score
        else:
            row = np.asarray(scores, dtype=np.float64)
        if row.shape != (len(self.labels),):
            raise ValueError(f"{row.shape} scores for {len(self.labels)} labels")
        found, confidences = top(self.calibrator.apply(row[None], unvisited))
        best, confidence = self.labels[found[0]], float(confidences[0])
        answer = self.threshold is not None and confidence >= self.threshold
        return Decision(best if answer else None, best, confidence)


def calibrate(
    task: str,
    labels: Sequence[str],
    gold: Sequence[str],
    log_probs: npt.ArrayLike,
    *,
    unvisited: npt.ArrayLike | None = None,
    prior: Calibrator | None = None,
    target: float = TARGET_PRECISION,
    rule: Rule = "lower_bound",
    clusters: Clusters | None = None,
) -> TaskCalibration:
    """Fit temperature and threshold on a task's validation rows.

    One number is fitted for the temperature, so that choosing the threshold on the same rows costs
    little.

    Args:
        task: The task's name.
        labels: The label space, in the order of the columns.
        gold: Gold labels of the validation rows.
        log_probs: Their log-likelihoods, of shape (rows, labels); NaN or -inf where not scored.
        unvisited: Bound of the share of each row's mass on labels not scored.
        prior: A contextual calibrator that is applied first.
        target: The precision wanted of answers.
        rule: What has to reach it.
        clusters: The item of every row, where items have several.

    Raises:
        ValueError: As :func:`~multitask.calibration.fit_temperature` and
            :func:`~multitask.calibration.choose_threshold`.
    """
    calibrator = fit_temperature(
        gold, normalised(log_probs, unvisited), labels, after=prior, clusters=clusters
    )
    predicted, confidence = top(calibrator.apply(log_probs, unvisited))
    correct = predicted == gold_codes(gold, labels)
    chosen = choose_threshold(confidence, correct, target=target, rule=rule, clusters=clusters)
    return TaskCalibration(
        task=task,
        labels=tuple(labels),
        method=calibrator.method,
        temperature=calibrator.temperature,
        log_prior=calibrator.log_prior,
        target_precision=target,
        rule=rule,
        threshold=chosen.threshold,
        validation_rows=len(gold),
        expected_precision=None if chosen.precision is None else _share(chosen.precision),
        expected_coverage=_share(chosen.coverage),
    )


def _share(estimate: Estimate) -> ShareRecord:
    return ShareRecord(value=estimate.value, low=estimate.low, high=estimate.high)


class _File(_Strict):
    version: Literal[1]
    tasks: list[TaskCalibration]


def save(path: Path, calibrations: Iterable[TaskCalibration]) -> None:
    """Write the calibration of a model's tasks, replacing the file."""
    content = _File(version=1, tasks=list(calibrations)).model_dump(mode="json")
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load(path: Path) -> dict[str, TaskCalibration]:
    """Read what :func:`save` wrote, by task.

    Raises:
        InputError: There is no such file, it is no JSON, or a key is missing, unknown or wrong.
    """
    fix = "make it again with `multitask evaluate`, or remove it"
    if not path.is_file():
        raise InputError("there is no calibration", where=path, fix=fix)
    content = read_json(path, fix=fix)
    try:
        found = _File.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{place}: {first['msg']}", where=path, fix=fix) from None
    return {calibration.task: calibration for calibration in found.tasks}
