"""Evaluation: a run's rows through a model, to metrics, calibration and comparisons."""
