"""Everything that a report says of one task."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multitask.data.render import Row
from multitask.metrics import METRICS
from multitask.reports.answers import Answer, Listing, read_answers
from multitask.reports.confusion import Confusion, confusion
from multitask.reports.sharing import SINGLE
from multitask.reports.verdicts import HandOver, Opponent, hand_over, opponents
from multitask.reports.verdicts import verdict as over_all
from multitask.reports.words import BASELINES, findings
from multitask.tasks import kind_named

_WORST = 12

# Bytes of the listed predictions of all tasks together: a page that can be sent by e-mail.
_PREDICTIONS_SIZE = 1_500_000
_MOST_LABELS = 120


@dataclass(frozen=True)
class Score:
    """One number of a table, with its interval; a share, in 0..1, is shown in percent."""

    value: float
    low: float
    high: float
    is_share: bool = True

    def percent(self) -> str:
        """Such as ``85.6 %``, or ``0.412`` where it is no share."""
        return f"{100 * self.value:.1f} %" if self.is_share else f"{self.value:.3f}"

    def interval(self) -> str:
        """Such as ``84.3-86.8``."""
        if self.is_share:
            return f"{100 * self.low:.1f}–{100 * self.high:.1f}"  # noqa: RUF001 (an en dash)
        return f"{self.low:.3f}–{self.high:.3f}"  # noqa: RUF001


@dataclass(frozen=True)
class SystemScores:
    """A row of a task's table: what answered, and its metrics."""

    name: str
    metrics: dict[str, Score]
    is_model: bool

    @property
    def main(self) -> Score:
        """The headline metric."""
        return next(iter(self.metrics.values()))


@dataclass(frozen=True)
class LabelScores:
    """A label's precision, recall and F1, and how often it is right and predicted."""

    label: str
    support: int
    predicted: int
    scores: dict[str, Score]


@dataclass(frozen=True)
class TaskReport:
    """Everything about one task.

    Attributes:
        kind: In words.
        n: Rows.
        labels: How many there are.
        seconds: Of scoring.
        systems: The model first, then what it is compared with.
        verdict: One sentence: the model against all opponents, or the stronger baseline.
        verdict_class: ``better``, ``worse`` or ``unclear``.
        opponents: Each paired comparison.
        hand_over: The recommended threshold; None without calibration.
        findings: What else there is to say, a sentence each.
        mistakes: Wrong answers, the surest first.
        predictions: Rows to search in, the wrong ones first; all, unless they are very many.
        calibrated: Whether probabilities of rows are calibrated ones.
        confusion: None where there is none to show.
        per_label: Labels, the worst first.
        labels_left_out: Labels that ``per_label`` does not show.
        reliability: Bins before and after calibration; after: None without.
        positions: Of multiple choice: option, share of right answers, share of the model's.
    """

    name: str
    kind: str
    n: int
    labels: int
    seconds: float
    systems: list[SystemScores]
    verdict: str
    verdict_class: str
    opponents: list[Opponent]
    hand_over: HandOver | None
    findings: list[str]
    mistakes: list[Answer]
    predictions: Listing
    calibrated: bool
    confusion: Confusion | None
    per_label: list[LabelScores]
    labels_left_out: int
    reliability: tuple[list[dict[str, Any]], list[dict[str, Any]] | None]
    positions: list[tuple[str, float, float]]


def task_report(
    name: str,
    results: dict[str, Any],
    manifest: dict[str, Any],
    directory: Path,
    others: dict[str, Any],
    rows: dict[str, dict[str, Row]],
) -> TaskReport:
    """Gather it.

    Args:
        name: The task.
        results: The content of results.json, with every comparison that there is.
        manifest: The run's manifest.
        directory: The evaluation's folder.
        others: Metrics of this task in the run's other evaluations of the same rows, by name.
        rows: The rows of the split, by task and id.
    """
    task = results["tasks"][name]
    labels = manifest["tasks"][name]["labels"]
    systems = [SystemScores(directory.name, _scores(task["metrics"]), True)]
    systems += [SystemScores(other, _scores(metrics), True) for other, metrics in others.items()]
    single = results.get("comparisons", {}).get(SINGLE, {}).get(name)
    if single is not None:
        systems.append(SystemScores(SINGLE, _scores(single["metrics"]), True))
    systems += [
        SystemScores(title, _scores(task["baselines"][key]), False)
        for key, title in BASELINES.items()
        if key in task["baselines"]
    ]
    against = opponents(name, results.get("comparisons", {}), BASELINES)
    verdict, verdict_class = over_all(against) if against else _verdict(systems)
    answers = read_answers(name, labels, rows.get(name, {}), directory)
    sections = kind_named(task["kind"]).sections
    per_label = _per_label(task.get("per_label", []))
    return TaskReport(
        name=name,
        kind=task["kind"].replace("_", " "),
        n=task["n"],
        labels=len(labels),
        seconds=task["seconds"],
        systems=systems,
        verdict=verdict,
        verdict_class=verdict_class,
        opponents=against,
        hand_over=hand_over(task["calibration"]) if "calibration" in task else None,
        findings=list(findings(task)),
        mistakes=answers.mistakes(_WORST),
        predictions=answers.listed(_PREDICTIONS_SIZE // len(results["tasks"])),
        calibrated=answers.calibrated,
        confusion=confusion(answers.gold, answers.predicted, labels)
        if "confusion" in sections
        else None,
        per_label=per_label[:_MOST_LABELS],
        labels_left_out=max(0, len(per_label) - _MOST_LABELS),
        reliability=(
            task.get("reliability", []),
            None if answers.after is None else [asdict(found) for found in answers.after],
        ),
        positions=answers.positions(labels) if "positions" in sections else [],
    )


def _per_label(records: list[dict[str, Any]]) -> list[LabelScores]:
    found = [
        LabelScores(
            record["label"],
            record["support"],
            record["predicted"],
            {
                key: Score(**record[key])
                for key in ("precision", "recall", "f1")
                if record[key] is not None
            },
        )
        for record in records
    ]
    # A label without rows says nothing of how well its rows are found.
    return sorted(found, key=lambda label: (not label.support, _f1(label)))


def _f1(label: LabelScores) -> float:
    return label.scores["f1"].value if "f1" in label.scores else 1.0


def _scores(metrics: dict[str, Any]) -> dict[str, Score]:
    return {
        key: Score(**metrics[key], is_share=known.is_share)
        for key, known in METRICS.items()
        if key in metrics
    }


def _verdict(systems: list[SystemScores]) -> tuple[str, str]:
    """Compare accuracies by their intervals, which is cautious: overlap does not mean equal."""
    model = systems[0].main
    baselines = [system for system in systems if not system.is_model]
    if not baselines:
        return "compared with nothing yet", "unclear"
    best = max(baselines, key=lambda system: system.main.value)
    baseline = best.main
    points = 100 * (model.value - baseline.value)
    against = f"{best.name} ({baseline.percent()})"
    if model.low > baseline.high:
        return f"{points:.1f} points over {against}", "better"
    if model.high < baseline.low:
        return f"{-points:.1f} points under {against}", "worse"
    return (
        f"not clearly different from {against}: {points:+.1f} points, intervals overlap",
        "unclear",
    )
