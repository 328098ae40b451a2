"""Finished examples as the model will see them, with what is trained on marked."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import Any

from multitask.data.render import Row
from multitask.data.tokens import load_tokenizer
from multitask.data.write import iterate_rows
from multitask.run import Run
from multitask.spec import Spec

OPEN, CLOSE = "\u00bb", "\u00ab"
_SCANNED = 20_000


def show_examples(run: Run, spec: Spec, count: int) -> str:
    """The first training rows of each task, each whole, answers between \u00bb and \u00ab.

    With the model's tokenizer at hand, the chat template is shown too; otherwise the messages.
    """
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in islice(iterate_rows(run.split("train")), _SCANNED):
        if len(by_task[row["task"]]) < count:
            by_task[row["task"]].append(row)
    tokenizer = load_tokenizer(spec, run.root)
    title = f"Examples; what is trained on stands between {OPEN} and {CLOSE}."
    if tokenizer is None:
        title += " The model's tokenizer is not on this machine, so its chat template is not shown."
    blocks = [title]
    for task, rows in by_task.items():
        for row in rows:
            heading = f"--- {task} / {row['id']} / template {row['template']} ---"
            blocks.append(f"{heading}\n{_whole(row, tokenizer)}")
    return "\n\n".join(blocks) + "\n"


def _whole(row: Row, tokenizer: Any | None) -> str:
    messages = row["messages"]
    if tokenizer is None:
        return f"user: {messages[0]['content']}\nassistant: {OPEN}{messages[1]['content']}{CLOSE}"
    head = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    return f"{head}{OPEN}{whole.removeprefix(head)}{CLOSE}"
