"""Calibration: probabilities that mean what they say, and when to hand over to a person."""

from multitask.calibration.abstention import Threshold, choose_threshold
from multitask.calibration.calibrator import (
    Calibrator,
    before_and_after,
    fit_contextual,
    fit_temperature,
)
from multitask.calibration.record import Decision, TaskCalibration, calibrate, load, save

__all__ = [
    "Calibrator",
    "Decision",
    "TaskCalibration",
    "Threshold",
    "before_and_after",
    "calibrate",
    "choose_threshold",
    "fit_contextual",
    "fit_temperature",
    "load",
    "save",
]
