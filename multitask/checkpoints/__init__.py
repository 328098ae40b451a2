"""Checkpoints: what a complete one holds, which is newest, which may go. All without torch."""

from multitask.checkpoints.inventory import (
    Checkpoint,
    ResumePoint,
    choose_resume,
    list_checkpoints,
    newest_complete,
    rotate,
    set_aside,
    step_of,
)
from multitask.checkpoints.layout import find_problems
from multitask.checkpoints.marker import (
    MARKER,
    Inputs,
    Marker,
    fingerprint,
    read_marker,
    write_marker,
)

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
