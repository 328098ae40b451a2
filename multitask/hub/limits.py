"""What a user of the model should know before relying on it, from the run's own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multitask.hub.evaluations import Evaluation
from multitask.tasks import Task

_BASELINES = {
    "majority": "always answering with the most frequent label",
    "tfidf_logistic_regression": "TF-IDF with logistic regression",
}


def limits(
    tasks: Sequence[Task], manifest: Mapping[str, Any], evaluations: Sequence[Evaluation]
) -> list[str]:
    """One sentence a limit; what depends on figures is said only where they show it."""
    found = []
    if not evaluations:
        found.append("The model has not been evaluated; nothing is known of its quality.")
    sample = [t.name for t in tasks if manifest[t.name]["source"]["kind"] == "sample"]
    if sample:
        found.append(
            f"Trained on a small sample of {', '.join(sample)}: it shows that the pipeline works, "
            "and is not for use."
        )
    for evaluation in evaluations[:1]:
        for name, record in evaluation.tasks.items():
            found += [f"{name}: {sentence}" for sentence in _of_task(record)]
    closed = [t.name for t in tasks if t.labels]
    if closed:
        found.append(
            "Scores hold for the closed label sets: a text that belongs to no label gets one all "
            "the same."
        )
    found += [
        (
            "Scores hold for texts like those of the evaluated split, in the prompt format above; "
            "other languages, domains and phrasings were not measured."
        ),
        "Knowledge, biases and unsafe answers of the base model can remain.",
    ]
    return found


def _of_task(record: Mapping[str, Any]) -> list[str]:
    found = []
    own = record["metrics"].get("accuracy")
    rivals = {
        name: metrics["accuracy"]
        for name, metrics in record.get("baselines", {}).items()
        if "accuracy" in metrics
    }
    if own and rivals:
        name = max(rivals, key=lambda key: rivals[key]["value"])
        if own["low"] <= rivals[name]["high"]:
            found.append(
                f"not shown to be better than {_BASELINES.get(name, name)} "
                f"({_percent(own)} against {_percent(rivals[name])} accuracy)."
            )
    if record["n"] < 100:
        found.append(f"evaluated on {record['n']} rows only, so intervals are wide.")
    cut = record.get("truncated", {}).get("rows", 0)
    if cut:
        found.append(f"{cut} of {record['n']} prompts were longer than the context and were cut.")
    rate = record.get("generated", {}).get("metrics", {}).get("off_list_rate")
    if rate and rate["value"] > 0:
        found.append(f"{_percent(rate)} of freely generated answers are no label; score labels.")
    calibration = record.get("calibration")
    if calibration and calibration["threshold"] is None:
        found.append(
            f"no threshold reaches {100 * calibration['target_precision']:.0f} % precision on "
            "validation, so every answer needs a person's check."
        )
    return found


def _percent(estimate: Mapping[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} %"
