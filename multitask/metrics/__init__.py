"""Metrics: pure functions of predictions, in one registry that gives them their intervals."""

# The registry's order is that of tables.
from multitask.metrics import classification, probability, choice, text  # noqa: I001
from multitask.metrics.intervals import Confusion, Interval
from multitask.metrics.registry import METRICS, Metric, Predictions, Statistic, compute, metric
from multitask.tasks.kinds import KINDS

for _kind in KINDS.values():
    _kind.add_metrics()

__all__ = [
    "METRICS",
    "Confusion",
    "Interval",
    "Metric",
    "Predictions",
    "Statistic",
    "choice",
    "classification",
    "compute",
    "metric",
    "probability",
    "text",
]
