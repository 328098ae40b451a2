"""Which validation rows are evaluated while training: few of each task, and the same each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from multitask.data.render import Row, gold

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IGNORED = -100
"""The label of a token that is not learned."""

Tokenize = Callable[[Row], tuple[list[int], list[int]]]
"""An engine's way from a row to tokens and labels."""

# Fewer say too little of a task, whatever they would save.
_FEWEST = 16
# A training step costs at least the forward pass and a backward pass of twice the work.
_FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class RowFile:
    """A JSON-lines file whose rows are read one at a time.

    Attributes:
        path: The file.
        offsets: Where each line begins, in bytes, and the file's size at the end.
        tasks: The task of each row, as its place in ``names``.
        names: Names of the tasks.
    """

    path: Path
    offsets: NDArray[np.int64]
    tasks: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> RowFile:
        """Read once through a file."""
        import numpy as np

        places: dict[str, int] = {}
        tasks, offsets = [], [0]
        with path.open("rb") as file:
            for line in file:
                tasks.append(places.setdefault(orjson.loads(line)["task"], len(places)))
                offsets.append(offsets[-1] + len(line))
        return cls(path, np.asarray(offsets, np.int64), np.asarray(tasks, np.int64), tuple(places))

    def __len__(self) -> int:
        return len(self.tasks)

    def row(self, number: int) -> Row:
        """A row."""
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[number]))
            row: Row = orjson.loads(file.readline())
        return row


@dataclass(frozen=True)
class EvaluationRow:
    """A tokenised validation row.

    Attributes:
        task: Its task's place among the names.
        id: Its id in ``data/validation.jsonl``.
        input_ids: The engine's tokens.
        labels: Its labels, -100 where nothing is learned: of the same tokens, or, for an
            encoder-decoder, of the answer alone.
    """

    task: int
    id: str
    input_ids: Sequence[int]
    labels: Sequence[int]

    @property
    def first(self) -> int:
        """The column of the first token that is predicted."""
        return next(i for i, label in enumerate(self.labels) if label != IGNORED)


@dataclass(frozen=True)
class EvaluationRows:
    """What is evaluated: rows, and the names of their tasks."""

    names: tuple[str, ...]
    rows: tuple[EvaluationRow, ...]

    def ids(self) -> dict[str, list[str]]:
        """The rows' ids by task."""
        return {
            name: [row.id for row in self.rows if row.task == task]
            for task, name in enumerate(self.names)
        }


def choose_rows(
    file: RowFile,
    dataset: Any,
    order: Any,
    *,
    budget: int,
    seed: int,
    answers: Tokenize | None = None,
) -> EvaluationRows:
    """Choose rows of each task, evenly over its labels, and take the engine's tokens of them.

    Args:
        file: ``data/validation.jsonl``.
        dataset: The engine's tokenised form of it.
        order: The file's row of each row of ``dataset``.
        budget: Most rows of a task.
        seed: Seeds the choice.
        answers: Gives labels of the answer alone, where training learns prompts too.
    """
    rows = []
    for task in range(len(file.names)):
        places = [place for place, number in enumerate(order) if file.tasks[number] == task]
        read = [file.row(int(order[place])) for place in places]
        # Long answers are all different, so they are no strata.
        labels = [gold(row) if "label" in row or "choices" in row else "" for row in read]
        for chosen in stratified(labels, budget, seed=seed + task):
            tokens = dataset[places[chosen]]
            labels_of = tokens["labels"] if answers is None else answers(read[chosen])[1]
            row = EvaluationRow(task, read[chosen]["id"], tokens["input_ids"], labels_of)
            if any(label != IGNORED for label in row.labels):
                rows.append(row)
    return EvaluationRows(file.names, tuple(rows))


def row_budget(
    most: int, *, share: float, trained_rows: float, evaluations: int, tasks: int
) -> int:
    """Rows of a task that an evaluation may have: ``most``, or fewer where the training is short.

    Args:
        most: The upper bound.
        share: Most of the training's work that all evaluations together may add.
        trained_rows: Rows the whole training sees, repeats counted.
        evaluations: How many evaluations there are.
        tasks: How many tasks there are.
    """
    rows = share * trained_rows / _FORWARD_SHARE / max(1, evaluations) / max(1, tasks)
    return min(most, max(_FEWEST, math.floor(rows)))


def count_evaluations(args: Any, *, at_start: bool) -> int:
    """How many evaluations a training with these arguments has: one a save, and at the start."""
    if args.save_strategy == "steps" and args.max_steps > 0:
        steps = args.save_steps if args.save_steps >= 1 else args.save_steps * args.max_steps
        saves = -(-args.max_steps // max(1, round(steps)))
    else:
        saves = max(1, round(args.num_train_epochs))
    return int(saves) + at_start


def stratified(labels: Sequence[str], count: int, *, seed: int) -> NDArray[np.int64]:
    """Numbers of ``count`` rows, rising, so that each label has its share, rounded up or down."""
    import numpy as np

    if count >= len(labels):
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    order = generator.permutation(len(labels))
    exact = np.bincount(codes, minlength=len(names)) * (count / len(labels))
    quota = np.floor(exact).astype(np.int64)
    # Largest remainders get one more; ties are drawn.
    rank = np.lexsort((generator.random(len(names)), -(exact - quota)))
    quota[rank[: count - int(quota.sum())]] += 1
    chosen = [order[codes[order] == code][: quota[code]] for code in range(len(names))]
    return np.sort(np.concatenate(chosen))
