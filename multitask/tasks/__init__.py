"""Tasks: what is asked, what may be answered, and in which words."""

from multitask.tasks.builtin import load_task, task_names
from multitask.tasks.example import Example
from multitask.tasks.task import Kind, Task
from multitask.tasks.template import Template

__all__ = ["Example", "Kind", "Task", "Template", "load_task", "task_names"]
