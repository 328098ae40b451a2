"""Special tokens in the cells of a dataset: text that a tokenizer would take for control."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow.compute as pc

from multitask.data.rows import Rows, text_column
from multitask.errors import InputError
from multitask.tasks import Example, Kind

Action = Literal["refuse", "escape", "keep"]

# Those of the shipped model families, for when the model's own tokenizer is not at hand.
_KNOWN = re.compile(
    r"""<\|[^\s<>|]{1,40}\|>                                # Llama 3, Qwen, Phi, GPT, Falcon, OLMo
    | <\uff5c[^\s<>\uff5c]{1,40}\uff5c>                     # DeepSeek
    | </?s> | <(?:unk|pad|bos|eos|mask)>                    # Llama 2, Mistral, Gemma, BLOOM, T5
    | <(?:start|end)_of_(?:turn|image)> | <extra_id_\d+>    # Gemma, T5
    | \[/?INST\] | <</?SYS>> | \[/?(?:TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|SYSTEM_PROMPT)\]
    """,
    re.VERBOSE,
)


def token_pattern(tokenizer: Any | None) -> re.Pattern[str]:
    """What finds special tokens in a text.

    Args:
        tokenizer: The model's; None: those of the model families that are shipped.
    """
    if tokenizer is None:
        return _KNOWN
    added = tokenizer.added_tokens_decoder.values()
    tokens = {token.content for token in added if token.special} | {*tokenizer.all_special_tokens}
    # A longer token goes before one that it begins with; a single character is text.
    ordered = sorted((t for t in tokens if len(t.strip()) > 1), key=lambda t: (-len(t), t))
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


@dataclass
class SpecialTokens:
    """Special tokens that were found in the cells of a task.

    Attributes:
        action: What was done about them.
        cells: Cells that hold some.
        tokens: How often each is there.
        first: Row and field of the first one.
    """

    action: Action
    cells: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    first: tuple[str, str] = ("", "")

    def record(self) -> dict[str, object]:
        """What the manifest keeps."""
        return {"action": self.action, "cells": self.cells, "tokens": dict(self.tokens)}

    def warnings(self) -> list[str]:
        """What the plan says."""
        if not self.cells:
            return []
        done = "a space was put into each" if self.action == "escape" else "kept as they are"
        shown = ", ".join(f"{token!r}" for token, _ in self.tokens.most_common(3))
        return [f"{self.cells:,} cells hold special tokens of the model ({shown}); {done}"]


def guard_cells(
    splits: dict[str, Rows],
    pattern: re.Pattern[str],
    action: Action,
    *,
    kind: Kind,
    task: str,
    where: object,
) -> SpecialTokens:
    """Look for special tokens in the cells of a task, and do about them what the spec says.

    Args:
        splits: The rows by split; changed in place where they are escaped.
        pattern: From :func:`token_pattern`.
        action: What to do.
        kind: The task's kind: of a generation, the response is a cell too.
        task: The task's name, for messages.
        where: Its source, for messages.

    Raises:
        InputError: There are some, and they are refused; or a class is named by one.
    """
    found = SpecialTokens(action)
    for split, rows in splits.items():
        suspects = list(_suspects(rows, pattern))
        clean = []
        for place in suspects:
            row = rows[place]
            clean.append(_cleaned(row, pattern, kind, found))
            if action == "escape" and kind.closed and pattern.search(row.label):
                raise _refusal(found, task, where)
        if action == "escape":
            splits[split] = rows.put(suspects, clean)
    if action == "refuse" and found.cells:
        raise _refusal(found, task, where)
    return found


def _refusal(found: SpecialTokens, task: str, where: object) -> InputError:
    row, name = found.first
    token = next(iter(found.tokens))
    fix = "clean the file, or put a space into them with `templates: {special_tokens: escape}`"
    if name == "label" and found.action == "escape":
        fix = "rename the class"
    return InputError(
        f"{found.cells:,} cells of task {task!r} hold special tokens of the model, which would "
        f"become control tokens: {token!r} in the {name} of row {row!r}",
        where=where,
        fix=fix,
    )


def _suspects(rows: Rows, pattern: re.Pattern[str]) -> Iterator[int]:
    """Rows of which a cell holds a special token; blocks without any are passed over at once."""
    step = rows.step
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        labels = block.column("label").unique().dictionary_decode()
        cells = [block.column("text"), labels]
        if not block.text_alone:
            cells += [text_column(c for row in block for c in (row.context, *row.choices))]
        if pattern is _KNOWN:
            # Special tokens are in brackets of some sort, and nearly no text is.
            cells = [c.filter(pc.match_substring_regex(c, r"[<\[]")) for c in cells]
        if not any(pattern.search("\0".join(c.to_pylist())) for c in cells):
            continue
        for place, row in enumerate(block, start):
            if any(pattern.search(c) for c in (row.text, row.label, row.context, *row.choices)):
                yield place


def _cleaned(row: Example, pattern: re.Pattern[str], kind: Kind, found: SpecialTokens) -> Example:
    """A row with a space in every special token; counts them."""
    last = "label" if kind.closed else "response"

    def clean(cell: str, name: str) -> str:
        tokens = pattern.findall(cell)
        if not tokens:
            return cell
        found.cells += 1
        found.tokens.update(tokens)
        if not found.first[0]:
            found.first = (row.id, name)
        # What is left may be one again: <<s>s>.
        while pattern.search(cell):
            cell = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", cell)
        return cell

    return Example(
        row.id,
        clean(row.text, "text"),
        clean(row.label, last),
        tuple(clean(option, "options") for option in row.choices),
        clean(row.context, "input"),
    )
