"""How much there is to train on: what batch, time and cost follow from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from multitask.data.write import iterate_rows
from multitask.estimate.assumptions import PACKING_FILL
from multitask.files import read_json
from multitask.run import Run

# Where no tokenizer is at hand: English text under current vocabularies has some 4 characters a
# token, and a chat template adds some 20 tokens to a conversation.
_CHARACTERS_PER_TOKEN = 4.0
# Of the row that must fit: code, numbers and other languages have fewer.
_FEWEST_CHARACTERS_PER_TOKEN = 3.0
_TEMPLATE_TOKENS = 20
_SAMPLE = 4000


@dataclass(frozen=True)
class Workload:
    """Rows and tokens of a run's training mixture.

    Attributes:
        rows: Rows in one pass over the mixture.
        validation_rows: Rows of the validation split.
        tokens_per_row: Mean tokens of a row, prompt included.
        longest: Tokens of the longest row; where they are guessed, rather too many.
        counted: Whether tokens were counted with the model's tokenizer; else they are guessed
            from characters.
    """

    rows: int
    validation_rows: int
    tokens_per_row: float
    longest: int
    counted: bool

    def rows_per_sequence(self, sequence_len: int) -> float:
        """Rows that fit into a packed sequence on average, at least 1.

        The next row is too long for what is left of a sequence.
        """
        return max(1.0, PACKING_FILL * sequence_len / self.tokens_per_row)


def workload_of(run: Run) -> Workload:
    """Read a prepared run's workload from its manifest, or guess tokens from its rows."""
    manifest = read_json(run.manifest)
    tasks = manifest["tasks"].values()
    rows = sum(task["mixture"]["rows"] for task in tasks)
    validation = sum(task["counts"]["validation"]["rows"] for task in tasks)
    counts = [task.get("tokens") for task in tasks]
    if all(counts):
        total = sum(count["total"] for count in counts)
        longest = max(count["longest"] for count in counts)
        return Workload(rows, validation, total / rows, longest, counted=True)
    lengths = [_characters(row) for row in iterate_rows(run.split("train"))]
    sample = lengths[:_SAMPLE]
    mean = sum(sample) / len(sample) / _CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS
    longest = max(lengths) / _FEWEST_CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS
    return Workload(rows, validation, mean, math.ceil(longest), counted=False)


def _characters(row: dict[str, Any]) -> int:
    return sum(len(message["content"]) for message in row["messages"])
