"""What an evaluation asks of the scorer: the rows of every task, in every way that is wanted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from multitask import __version__
from multitask.data.general import GeneralTask
from multitask.data.readers import read_rows
from multitask.data.render import Row
from multitask.digests import sha256
from multitask.errors import InputError, did_you_mean
from multitask.files import read_json, understood
from multitask.metrics.probability import TOP_K
from multitask.run import SPLITS, Run
from multitask.scoring.model import Quantisation
from multitask.scoring.score import requests_of
from multitask.scoring.scorer import FULL_DISTRIBUTION, Scorer, Scores
from multitask.tasks import Task, task_from_record

CalibrationMethod = Literal["temperature", "contextual", "none"]

Baselines = tuple[dict[str, list[str]], float]
"""What each baseline answers to the rows of a task, and the seconds it took."""

GENERAL = "general"
"""What rows of general tasks are called, where others have a split's name."""

_METHODS = ("temperature", "contextual", "none")
# Inputs that say nothing, by Zhao et al., 2021.
_CONTENT_FREE = ("N/A", "", "[MASK]")
# Generated answers may ramble a little beyond the longest label before they are cut.
_RAMBLE = 16
_GENERATED_BLOCK = 64
# What the prompt and the answer of a row cost, against one of equal length that is scored: each
# token of a generated answer is a forward pass of its own.
_GENERATED_COST = 8


@dataclass(frozen=True)
class Settings:
    """What an evaluation is asked for, beyond model and rows.

    Attributes:
        distribution: Score labels until the others hold hardly any probability, so that there are
            metrics of probabilities and a calibration. Without it only the best label is proven:
            several times faster where a model is sure.
        max_residual: How much of the labels' probability may lie on labels that are not scored.
        calibration: ``temperature``; ``contextual``, which takes out first how much the model
            likes each label whatever the text; or ``none``.
        target_precision: The precision wanted of answers that are not handed over to a person.
        generate: Rows of each task with a closed label set that are also answered freely, spread
            evenly over the split; 0: none.
        max_new_tokens: Longest freely generated answer of a generation task, in tokens.
        option_texts: Score the options of multiple choice both by letter and by text.
        permutations: Ask every multiple-choice question with its options in all cyclic orders.
        baselines: Add the majority label and TF-IDF with logistic regression.
        dtype: Precision of the weights; default: that which suits the device.
        quantisation: Load the weights in 4 or 8 bits.
        token_budget: Most tokens in a batch; default: the scorer's.
        block: Rows that are put to the model, and kept, together.
    """

    distribution: bool = True
    max_residual: float = FULL_DISTRIBUTION
    calibration: CalibrationMethod = "temperature"
    target_precision: float = 0.95
    generate: int = 100
    max_new_tokens: int = 128
    option_texts: bool = True
    permutations: bool = False
    baselines: bool = True
    dtype: str | None = None
    quantisation: Quantisation | None = None
    token_budget: int | None = None
    block: int = 256

    def __post_init__(self) -> None:
        if self.calibration not in _METHODS:
            raise InputError(
                f"unknown calibration {self.calibration!r}",
                fix=did_you_mean(self.calibration, _METHODS),
            )
        if not 0 < self.target_precision <= 1:
            raise InputError(f"a target precision of {self.target_precision} is not in 0 to 1")
        if not 0 <= self.max_residual < 1:
            raise InputError(f"a residual mass of {self.max_residual} is not in 0 to 1")
        for what in ("block", "max_new_tokens", "token_budget"):
            value = getattr(self, what)
            if value is not None and value < 1:
                raise InputError(f"{what} is {value}", fix="use at least 1")

    def residual_for(self, task: Task) -> float | None:
        """How much of a task's distribution may stay unknown, as the scorer takes it."""
        # A prior divides label by label, so the tail's sum is not enough for it.
        if task.kind.exhaustive or (self.distribution and self.calibration == "contextual"):
            return 0.0
        return self.max_residual if self.distribution else None


@dataclass
class Inputs:
    """The rows of an evaluation.

    Attributes:
        run: Where they come from.
        split: The evaluated split; ``general`` of rows that are of no split.
        limit: Rows of each task, if not all.
        settings: What is asked for.
        tasks: The tasks, in the order of the manifest.
        rows: The evaluated rows of each task.
        validation: The rows to calibrate on; none where there is no calibration.
        key: What identifies rows and settings.
        notes: What the user should know.
    """

    run: Run
    split: str
    limit: int | None
    settings: Settings
    tasks: list[Task]
    rows: dict[str, list[Row]]
    validation: dict[str, list[Row]]
    key: dict[str, str]
    notes: list[str]
    _train: dict[str, list[Row]] = field(default_factory=dict, repr=False)
    _baselines: dict[str, Baselines] = field(default_factory=dict, repr=False)

    def baselines(self, task: Task) -> Baselines | None:
        """What baselines answer to the rows of a task, computed once; None where not wanted."""
        if not self.settings.baselines or not task.kind.closed:
            return None
        if task.name not in self._baselines:
            if not self._train:
                self._train = _by_task(read_rows(self.run.split("train")), self.tasks, None)
            start = time.perf_counter()
            train, rows = self._train[task.name], self.rows[task.name]
            found = task.kind.baselines(train, rows)
            self._baselines[task.name] = found, time.perf_counter() - start
        return self._baselines[task.name]


def read_inputs(run: Run, split: str, limit: int | None, settings: Settings) -> Inputs:
    """Read the rows of a split, and those to calibrate on.

    Raises:
        InputError: There is no such split, or the run has no data.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}", fix=did_you_mean(split, SPLITS))
    run.require(run.split(split), f"multitask build-config {run.spec} --out {run.root}")
    manifest = read_json(run.manifest)
    with understood(run.manifest):
        records = manifest["tasks"].items()
        tasks = [task_from_record(name, record, run.root) for name, record in records]
    settings = _for_metrics(settings, tasks)
    rows = _by_task(read_rows(run.split(split)), tasks, limit)
    validation, notes = _validation(run, split, limit, tasks, settings)
    files = [run.manifest, *(run.split(name) for name in (split, "validation", "train"))]
    data = " ".join(sha256(path) if path.is_file() else "" for path in files)
    key = _key(data, split, limit, settings)
    return Inputs(run, split, limit, settings, tasks, rows, validation, key, notes)


def _for_metrics(settings: Settings, tasks: Sequence[Task]) -> Settings:
    """The settings, and what metrics that tasks chose need besides: a choice is a wish.

    Raises:
        InputError: A task chose a metric that there is not.
    """
    chosen = [one for task in tasks for one in task.chosen_metrics() if task.metrics]
    needs = {need for one in chosen for need in one.needs}
    return replace(
        settings,
        distribution=settings.distribution or "log_probs" in needs,
        permutations=settings.permutations or "rotated" in needs,
        option_texts=settings.option_texts or not needs.isdisjoint({"by_letter", "text_scores"}),
    )


def general_inputs(
    run: Run, found: Sequence[GeneralTask], limit: int | None, settings: Settings
) -> Inputs:
    """The rows of general tasks, which have no validation rows and no training rows."""
    # Not calibrated, and no baselines: there is nothing to fit either on.
    settings = replace(settings, calibration="none", baselines=False)
    settings = _for_metrics(settings, [one.task for one in found])
    rows = {one.task.name: one.rows[:limit] for one in found}
    data = " ".join(f"{one.task.name}:{one.digest}" for one in found)
    notes = [
        f"{one.task.name}: {one.left_out:,} rows that repeat a training row were left out"
        for one in found
        if one.left_out
    ]
    tasks, validation = [one.task for one in found], {name: list[Row]() for name in rows}
    key = _key(data, GENERAL, limit, settings)
    return Inputs(run, GENERAL, limit, settings, tasks, rows, validation, key, notes)


def _validation(
    run: Run, split: str, limit: int | None, tasks: Sequence[Task], settings: Settings
) -> tuple[dict[str, list[Row]], list[str]]:
    nothing: dict[str, list[Row]] = {task.name: [] for task in tasks}
    if settings.calibration == "none":
        return nothing, []
    reason = ""
    if split != "test":
        reason = f"calibration is fitted on validation for the test split, not for {split}"
    elif not settings.distribution:
        reason = "calibration needs the distribution over the labels"
    elif not run.split("validation").is_file():
        reason = "the run has no validation rows"
    if reason:
        return nothing, [f"not calibrated: {reason}"]
    rows = _by_task(read_rows(run.split("validation")), tasks, limit)
    missing = [t.name for t in tasks if t.labels and not rows[t.name]]
    notes = [f"{name}: not calibrated: the run has no validation rows" for name in missing]
    if limit is not None:
        notes.append(
            f"calibrated on the first {limit} validation rows of each task alone; "
            "calibration.json is not written beside the model"
        )
    return rows, notes


def _key(data: str, split: str, limit: int | None, settings: Settings) -> dict[str, str]:
    asked: dict[str, Any] = {"split": split, "limit": limit, **asdict(settings)}
    return {
        "version": __version__,
        "data": hashlib.sha256(data.encode()).hexdigest(),
        **{f"setting {name!r}": json.dumps(value) for name, value in asked.items()},
    }


def _by_task(rows: Sequence[Row], tasks: Sequence[Task], limit: int | None) -> dict[str, list[Row]]:
    by_task: dict[str, list[Row]] = {task.name: [] for task in tasks}
    for row in rows:
        by_task[row["task"]].append(row)
    return {task: found[:limit] for task, found in by_task.items()}


def digests(key: Mapping[str, str]) -> dict[str, str]:
    """A key as results.json keeps it: SHA-256 of each of its values."""
    return {name: hashlib.sha256(value.encode()).hexdigest() for name, value in key.items()}


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
    """

    SCORES = "scores"
    OTHER_WAY = "other way"
    ROTATIONS = "rotations"
    GENERATED = "generated"
    VALIDATION = "validation"
    CONTENT_FREE = "content-free"


@dataclass(frozen=True)
class TaskRequests:
    """Rows of one task for one purpose.

    Attributes:
        task: The definition that made these rows.
        purpose: What they are for.
        rows: The rows.
        max_residual: As the scorer takes it.
        max_new_tokens: Longest generated answer; None: a little more than the longest label.
    """

    task: Task
    purpose: Purpose
    rows: Sequence[Row]
    max_residual: float | None = 0.0
    max_new_tokens: int | None = None

    @property
    def title(self) -> str:
        """What a progress bar calls it."""
        scores = self.purpose is Purpose.SCORES
        return self.task.name if scores else f"{self.task.name}, {self.purpose}"

    @property
    def generates(self) -> bool:
        """Whether answers are generated rather than scored."""
        return self.purpose is Purpose.GENERATED or not self.task.kind.closed

    def cost(self, place: int) -> int:
        """Roughly how many tokens a row takes."""
        characters = sum(len(message["content"]) for message in self.rows[place]["messages"])
        return (characters // 4 + 1) * (_GENERATED_COST if self.generates else 1)

    def blocks(self, size: int) -> list[tuple[int, ...]]:
        """Places of the rows that go together: of the same phrasing, and of like length."""
        if self.generates:
            size = min(size, _GENERATED_BLOCK)
        order = sorted(range(len(self.rows)), key=self._phrasing_and_length)
        return [tuple(order[i : i + size]) for i in range(0, len(order), size)]

    def _phrasing_and_length(self, place: int) -> tuple[str, int, int]:
        row = self.rows[place]
        return row["template"], -len(row["messages"][0]["content"]), place

    def run(self, scorer: Scorer, places: Sequence[int], advance: Callable[[int], None]) -> Scores:
        """Put some of the rows to the model."""
        task = self.task
        requests = requests_of(task, [self.rows[place] for place in places])
        if not self.generates:
            ranks = max((k for k in TOP_K if k < len(task.labels)), default=0)
            return scorer.score(
                requests, max_residual=self.max_residual, ranks=ranks, progress=advance
            )
        longest = self.max_new_tokens
        if longest is None:
            responses = [task.response_for(label, task.templates[0]) for label in task.labels]
            longest = scorer.longest(responses) + _RAMBLE
        return scorer.generate(requests, max_new_tokens=longest, progress=advance)


def requests_for(inputs: Inputs, task: Task) -> Iterator[TaskRequests]:
    """Everything that an evaluation puts to a model about one task.

    Raises:
        InputError: The task has no rows.
    """
    rows, settings = inputs.rows[task.name], inputs.settings
    if not rows:
        raise InputError(f"task {task.name!r} has no rows in this split")
    if not task.kind.closed:
        most = settings.max_new_tokens
        yield TaskRequests(task, Purpose.SCORES, rows, max_new_tokens=most)
        return
    residual = settings.residual_for(task)
    yield TaskRequests(task, Purpose.SCORES, rows, residual)
    if inputs.validation[task.name]:
        yield TaskRequests(task, Purpose.VALIDATION, inputs.validation[task.name], residual)
        if settings.calibration == "contextual":
            yield TaskRequests(task, Purpose.CONTENT_FREE, content_free(task))
    for purpose, asked, others in task.kind.asked_otherwise(task, rows, settings):
        yield TaskRequests(asked, Purpose(purpose), others)
    if settings.generate:
        # Responses of a row's own may be longer than any label.
        longest = settings.max_new_tokens if task.kind.own_responses(task) else None
        some = spread(rows, settings.generate)
        yield TaskRequests(task, Purpose.GENERATED, some, max_new_tokens=longest)


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
