"""Metrics: pure functions of gold and predicted answers, and the baselines they stand beside."""

from multitask.metrics.classification import Estimate, accuracy, macro_f1

__all__ = ["Estimate", "accuracy", "macro_f1"]
