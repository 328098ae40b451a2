"""What a report says, gathered from a run's files; the same for every format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.data.render import Row
from multitask.data.write import read_rows
from multitask.errors import InputError
from multitask.evaluation.names import DEFAULT_NAME
from multitask.metrics.kinds import METRICS
from multitask.reports.words import findings
from multitask.run import Run

BASELINES = {
    "majority": "Majority label",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
}
_WORST = 8


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
class Mistake:
    """A row that the model got wrong, the surest first."""

    id: str
    text: str
    gold: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class TaskReport:
    """Everything about one task.

    Attributes:
        verdict: One sentence: the model against the stronger baseline.
        verdict_class: ``better``, ``worse`` or ``unclear``.
        findings: What else there is to say, a sentence each.
    """

    name: str
    kind: str
    n: int
    labels: int
    seconds: float
    systems: list[SystemScores]
    verdict: str
    verdict_class: str
    findings: list[str]
    mistakes: list[Mistake]


@dataclass(frozen=True)
class ReportContent:
    """A whole report."""

    name: str
    model: str
    base_model: str
    split: str
    limit: int | None
    evaluations: list[str]
    tasks: list[TaskReport]
    training: dict[str, str]
    sources: list[dict[str, str]]
    notes: list[str]
    spec: str


def gather(run: Run) -> ReportContent:
    """Read a run's evaluations, data and training events.

    Raises:
        InputError: The run has not been evaluated.
    """
    found = sorted(run.evaluations.glob("*/results.json")) if run.evaluations.is_dir() else []
    if not found:
        raise InputError(
            "the run has not been evaluated",
            where=run.root,
            fix=f"run `multitask evaluate {run.root}`",
        )
    main = next((path for path in found if path.parent.name == DEFAULT_NAME), found[0])
    results = json.loads(main.read_text(encoding="utf-8"))
    manifest = json.loads(run.manifest.read_text(encoding="utf-8"))
    others = [path for path in found if path != main]
    spec_text = run.spec.read_text(encoding="utf-8")
    spec = _spec(spec_text)
    return ReportContent(
        name=spec["name"],
        model=results["model"],
        base_model=spec["model"],
        split=results["split"],
        limit=results["limit"],
        evaluations=[path.parent.name for path in found],
        tasks=[
            _task(name, task, manifest, run, main.parent, _others(name, results, others))
            for name, task in results["tasks"].items()
        ],
        training=_training(run),
        sources=[_source(name, task) for name, task in manifest["tasks"].items()],
        notes=_notes(run),
        spec=spec_text,
    )


def _spec(text: str) -> dict[str, Any]:
    import yaml

    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _others(task: str, main: dict[str, Any], paths: list[Path]) -> dict[str, Any]:
    """Metrics of the same task and split in the run's other evaluations."""
    others = {}
    for path in paths:
        results = json.loads(path.read_text(encoding="utf-8"))
        same = all(results[key] == main[key] for key in ("split", "limit"))
        if same and task in results["tasks"]:
            others[path.parent.name] = results["tasks"][task]["metrics"]
    return others


def _task(
    name: str,
    task: dict[str, Any],
    manifest: dict[str, Any],
    run: Run,
    directory: Path,
    others: dict[str, Any],
) -> TaskReport:
    systems = [SystemScores(directory.name, _scores(task["metrics"]), True)]
    systems += [SystemScores(other, _scores(metrics), True) for other, metrics in others.items()]
    systems += [
        SystemScores(title, _scores(task["baselines"][key]), False)
        for key, title in BASELINES.items()
        if key in task["baselines"]
    ]
    verdict, verdict_class = _verdict(systems)
    return TaskReport(
        name=name,
        kind=task["kind"].replace("_", " "),
        n=task["n"],
        labels=len(manifest["tasks"][name]["labels"]),
        seconds=task["seconds"],
        systems=systems,
        verdict=verdict,
        verdict_class=verdict_class,
        findings=list(findings(task)),
        mistakes=_mistakes(name, run, directory),
    )


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
        return "no baseline for this kind of task", "unclear"
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


def _mistakes(task: str, run: Run, directory: Path) -> list[Mistake]:
    import numpy as np
    import pyarrow.parquet as pq

    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    rows: dict[str, Row] = {
        row["id"]: row for row in read_rows(run.split(results["split"])) if row["task"] == task
    }
    table = pq.read_table(directory / "predictions.parquet", filters=[("task", "=", task)])
    mistakes = []
    for prediction in table.to_pylist():
        if prediction["gold"] == prediction["predicted"]:
            continue
        scores = np.array([entry["score"] for entry in prediction["scores"]] or [0.0])
        probabilities = np.exp(scores - scores.max())
        mistakes.append(
            Mistake(
                id=prediction["id"],
                text=_question(rows[prediction["id"]]),
                gold=_answer(rows[prediction["id"]], prediction["gold"]),
                predicted=_answer(rows[prediction["id"]], prediction["predicted"]),
                probability=float(probabilities.max() / probabilities.sum()),
            )
        )
    mistakes.sort(key=lambda mistake: (-mistake.probability, mistake.id))
    return mistakes[:_WORST]


def _question(row: Row) -> str:
    text: str = row["text"]
    return text


def _answer(row: Row, label: str | None) -> str:
    if label is None:
        return "no label"
    if "choices" not in row:
        return label
    return f"{label}. {row['choices'][ord(label) - ord('A')]}"


def _training(run: Run) -> dict[str, str]:
    """Steps, duration and last losses of the newest training, as far as they were recorded."""
    if not run.trainer_events.is_file():
        return {}
    events = [json.loads(line) for line in run.trainer_events.read_text("utf-8").splitlines()]
    starts = [i for i, event in enumerate(events) if event["event"] == "start"]
    events = events[starts[-1] :] if starts else events
    shown = {"steps": f"{events[-1]['step']:,} of {events[-1]['max_steps']:,}"}
    shown["duration"] = f"{(events[-1]['time'] - events[0]['time']) / 60:.1f} min"
    for key, title in (("loss", "last training loss"), ("eval_loss", "last validation loss")):
        values = [e["values"][key] for e in events if key in e.get("values", {})]
        if values:
            shown[title] = f"{float(values[-1]):.3f}"
    shown["checkpoints written"] = str(sum(event["event"] == "save" for event in events))
    return shown


def _source(name: str, task: dict[str, Any]) -> dict[str, str]:
    source = task["source"]
    rows = {split: f"{count['rows']:,}" for split, count in task["counts"].items()}
    location = source["location"] + (f" @ {source['revision']}" if source["revision"] else "")
    return {"task": name, "source": location, **rows, "left out": f"{task['dropped']['count']:,}"}


def _notes(run: Run) -> list[str]:
    """What the user must not overlook, written beside the run by the command that knew it."""
    path = run.root / "notes.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
