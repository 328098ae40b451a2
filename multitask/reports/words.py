"""Numbers and findings of an evaluation in words, the same on the terminal and in reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from multitask.metrics import METRICS

Estimate = Mapping[str, float]

BASELINES = {
    "majority": "Majority label",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
}
"""Titles of the baselines."""


def number(metric: str, value: float) -> str:
    """A metric's value in words: percent of a share, else three digits."""
    known = METRICS.get(metric)
    return f"{100 * value:.1f} %" if known is None or known.is_share else f"{value:.3f}"


def interval(metric: str, estimate: Estimate) -> str:
    """Such as ``84.3 to 86.8``, in the unit of `number`."""
    known = METRICS.get(metric)
    share = known is None or known.is_share
    low, high = estimate["low"], estimate["high"]
    return f"{100 * low:.1f} to {100 * high:.1f}" if share else f"{low:.3f} to {high:.3f}"


def _value(metrics: Mapping[str, Any], name: str) -> str:
    return number(name, metrics[name]["value"])


def findings(task: Mapping[str, Any]) -> Iterator[str]:
    """What results.json says of a task beside its table of metrics."""
    metrics = task["metrics"]
    if "text_accuracy" in metrics:
        yield (
            f"options by letter {_value(metrics, 'letter_accuracy')}, by text "
            f"{_value(metrics, 'text_accuracy')}, by text per character "
            f"{_value(metrics, 'text_accuracy_normalised')}"
        )
    if "consistency" in metrics:
        yield (
            f"over all option orders: accuracy {_value(metrics, 'rotated_accuracy')}, same answer "
            f"{_value(metrics, 'consistency')}, position bias {_value(metrics, 'position_bias')}"
        )
    if "generated" in task:
        free = task["generated"]
        yield (
            f"answered freely, {free['n']} rows: accuracy {_value(free['metrics'], 'accuracy')} "
            f"(closed set {_value(free['closed_set'], 'accuracy')}), off-list "
            f"{_value(free['metrics'], 'off_list_rate')}"
        )
    if "calibration" in task:
        yield _calibration(task["calibration"])
    if task.get("truncated", {}).get("rows"):
        yield f"{task['truncated']['rows']:,} prompts were longer than the context and were cut"


def _calibration(found: Mapping[str, Any]) -> str:
    before, after = found["before"], found["after"]
    text = (
        f"calibrated on {found['validation_rows']:,} validation rows "
        f"({found['method']}, {found['temperature']:.2f}): log loss "
        f"{before['log_loss']['value']:.3f} to {after['log_loss']['value']:.3f}, ECE "
        f"{_value(before, 'ece')} to {_value(after, 'ece')}; "
    )
    if found["method"] == "none":
        text = (
            f"confidence left as it is: on {found['validation_rows']:,} validation rows no "
            f"temperature lowers the log loss by more than its standard error (ECE "
            f"{_value(before, 'ece')}); "
        )
    target = f"{100 * found['target_precision']:.0f} % precision"
    if found["threshold"] is None:
        return text + f"no confidence promises {target}, so all is handed over"
    answered = found["answered"]
    reached = answered["precision"]
    precision = "none" if reached is None else f"{100 * reached['value']:.1f} %"
    return text + (
        f"for {target} answer from {found['threshold']:.3f} on: "
        f"{100 * answered['coverage']['value']:.1f} % of rows, {precision} of them right"
    )


def p_value(value: float) -> str:
    """Such as ``0.032`` or ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
