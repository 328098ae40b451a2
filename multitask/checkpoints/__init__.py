"""Checkpoints: what a complete one holds, which is newest, which may go. All without torch."""

from multitask.checkpoints.inputs import Inputs
from multitask.checkpoints.inventory import (
    Checkpoint,
    list_checkpoints,
    newest_complete,
    set_aside,
    step_of,
)
from multitask.checkpoints.layout import find_problems
from multitask.checkpoints.marker import MARKER, Marker, fingerprint, read_marker, write_marker
from multitask.checkpoints.resume import ResumePoint, choose_resume
from multitask.checkpoints.rotate import rotate

__all__ = [
    "MARKER",
    "Checkpoint",
    "Inputs",
    "Marker",
    "ResumePoint",
    "choose_resume",
    "find_problems",
    "fingerprint",
    "list_checkpoints",
    "newest_complete",
    "read_marker",
    "rotate",
    "set_aside",
    "step_of",
    "write_marker",
]
