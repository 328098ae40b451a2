"""Tasks: what is asked, what may be answered, and in which words."""

from multitask.tasks.example import Example
from multitask.tasks.sandbox import letter
from multitask.tasks.shipped import shipped_kind, shipped_templates, task_names
from multitask.tasks.task import (
    ROW_FIELDS,
    Kind,
    Task,
    row_fields,
    task_from_record,
    task_record,
)
from multitask.tasks.template import Template

__all__ = [
    "ROW_FIELDS",
    "Example",
    "Kind",
    "Task",
    "Template",
    "letter",
    "row_fields",
    "shipped_kind",
    "shipped_templates",
    "task_from_record",
    "task_names",
    "task_record",
]
