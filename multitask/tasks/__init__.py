"""Tasks: what is asked, what may be answered, and in which words."""

from multitask.tasks.example import Example
from multitask.tasks.kinds import KINDS, Kind, kind_named
from multitask.tasks.sandbox import letter
from multitask.tasks.shipped import generic_templates, task_names
from multitask.tasks.task import Task, keep_metrics, task_from_record, task_record
from multitask.tasks.template import Template

__all__ = [
    "KINDS",
    "Example",
    "Kind",
    "Task",
    "Template",
    "generic_templates",
    "keep_metrics",
    "kind_named",
    "letter",
    "task_from_record",
    "task_names",
    "task_record",
]
