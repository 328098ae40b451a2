"""Metrics: pure functions of gold and predicted answers, and the baselines they stand beside."""

from multitask.metrics.classification import accuracy, macro_f1
from multitask.metrics.estimate import Estimate

__all__ = ["Estimate", "accuracy", "macro_f1"]
