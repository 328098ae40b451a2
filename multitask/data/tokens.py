"""How much there is to train on, in tokens by the model's own tokenizer where it is at hand."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from multitask.data.readers import iterate_rows
from multitask.data.render import Renderer, Row, pick_templates
from multitask.estimate.assumptions import PACKING_FILL
from multitask.files import read_json
from multitask.run import Run
from multitask.spec import Spec

if TYPE_CHECKING:
    from multitask.data.prepare import Prepared, PreparedTask

_SAMPLE = 2000
_LONGEST = 32


@dataclass(frozen=True)
class TokenCount:
    """Tokens of a task in one pass over the mixture.

    Attributes:
        total: All tokens, prompts included.
        supervised: Tokens of the answers, which are learnt.
        longest: Tokens of the longest row.
        too_long: Share of counted rows that are longer than the spec's ``sequence_len``; Axolotl
            drops them. 0 where the spec leaves the length to the data.
        counted: How many rows were counted; fewer than there are means an estimate.
    """

    total: int
    supervised: int
    longest: int
    too_long: float
    counted: int

    def record(self) -> dict[str, float]:
        """What the manifest keeps."""
        return {
            "total": self.total,
            "supervised": self.supervised,
            "longest": self.longest,
            "too_long": self.too_long,
            "counted": self.counted,
        }


def load_tokenizer(spec: Spec, root: Path) -> Any | None:
    """The model's tokenizer, when it is on this machine and has a chat template; else None.

    Its template is as the model has it: one that shows the date of the day is not frozen.
    """
    from importlib.util import find_spec

    folder = root / spec.model
    if not folder.is_dir() and not _cached(spec.model):
        return None
    if find_spec("transformers") is None:
        return None
    from multitask.quiet import quiet_libraries

    quiet_libraries()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else spec.model, local_files_only=True
        )
    except (OSError, ValueError):
        return None
    return tokenizer if tokenizer.chat_template else None


def _cached(model: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, "tokenizer_config.json"), str)


def count_tokens(spec: Spec, root: Path, prepared: Prepared) -> dict[str, TokenCount] | None:
    """Count tokens per task; from the first 2,000 training rows where there are more.

    Returns:
        Counts by task, or None where the tokenizer is not at hand.
    """
    tokenizer = load_tokenizer(spec, root)
    if tokenizer is None:
        return None
    from multitask.scoring.chat import freeze_tokenizer

    freeze_tokenizer(tokenizer)
    longest = _longest_rows(Run(root))
    return {
        task.task.name: _count(
            task, tokenizer, spec, prepared.alpaca, longest.get(task.task.name, ())
        )
        for task in prepared.tasks
    }


def _longest_rows(run: Run) -> dict[str, list[Row]]:
    """Rows of each task among which the longest one in tokens is: the longest ones in bytes."""
    found: dict[str, list[tuple[int, bytes]]] = {}
    for split in ("train", "validation"):
        with run.split(split).open("rb") as file:
            for line in file:
                heap = found.setdefault(orjson.loads(line)["task"], [])
                heapq.heappush(heap, (len(line), line))
                if len(heap) > _LONGEST:
                    heapq.heappop(heap)
    return {task: [orjson.loads(line) for _, line in heap] for task, heap in found.items()}


def _count(
    prepared: PreparedTask, tokenizer: Any, spec: Spec, alpaca: bool, longest: Sequence[Row]
) -> TokenCount:
    places = prepared.places[:_SAMPLE]
    part = prepared.parts["train"]
    templates = pick_templates(
        part.keys[places],
        prepared.uses[:_SAMPLE],
        len(prepared.task.templates),
        seed=spec.seed,
    )
    rows = Renderer(prepared.task, alpaca=alpaca).rows(
        part.examples, templates.tolist(), places.tolist()
    )
    wholes, supervised = _lengths(list(rows), tokenizer)
    scale = len(prepared.places) / len(wholes)
    return TokenCount(
        total=round(sum(wholes) * scale),
        supervised=round(sum(supervised) * scale),
        longest=max(wholes + _lengths(longest, tokenizer)[0]),
        too_long=sum(n > (spec.sequence_len or n) for n in wholes) / len(wholes),
        counted=len(wholes),
    )


def _lengths(rows: Sequence[Row], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens of each whole conversation, and of its answer alone."""
    wholes, heads = [], []
    for row in rows:
        wholes.append(tokenizer.apply_chat_template(row["messages"], tokenize=False))
        heads.append(
            tokenizer.apply_chat_template(
                row["messages"][:1], tokenize=False, add_generation_prompt=True
            )
        )
    whole_ids = tokenizer(wholes, add_special_tokens=False)["input_ids"]
    head_ids = tokenizer(heads, add_special_tokens=False)["input_ids"]
    total = [len(ids) for ids in whole_ids]
    return total, [n - len(ids) for n, ids in zip(total, head_ids, strict=True)]


# Where no tokenizer is at hand: English text under current vocabularies has some 4 characters a
# token, and a chat template adds some 20 tokens to a conversation.
_CHARACTERS_PER_TOKEN = 4.0
# Of the row that must fit: code, numbers and other languages have fewer.
_FEWEST_CHARACTERS_PER_TOKEN = 3.0
_TEMPLATE_TOKENS = 20
_GUESSED_FROM = 4000


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
    sample = lengths[:_GUESSED_FROM]
    mean = sum(sample) / len(sample) / _CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS
    longest = max(lengths) / _FEWEST_CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS
    return Workload(rows, validation, mean, math.ceil(longest), counted=False)


def _characters(row: dict[str, Any]) -> int:
    return sum(len(message["content"]) for message in row["messages"])


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
