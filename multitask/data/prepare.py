"""From a spec to the data part of a run: read, gate, split, choose, render, write."""

from __future__ import annotations

import gc
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from multitask.data.define import define_task, task_of
from multitask.data.general import write_general
from multitask.data.leakage import Leak, LeakageGate, Part, summary
from multitask.data.manifest import manifest_record, plan_markdown
from multitask.data.mixture import Indices, choose, mixture_sizes, shuffled, stratified_split
from multitask.data.readers import Rejects, iterate_rows
from multitask.data.render import Renderer, pick_templates
from multitask.data.rows import Rows, arrow, content_of
from multitask.data.scorable import check_answers, check_scorable
from multitask.data.sources import Source, read_task
from multitask.data.special_tokens import SpecialTokens, guard_cells, token_pattern
from multitask.data.tokens import count_tokens, load_tokenizer
from multitask.errors import InputError
from multitask.models import ModelInfo, model_info
from multitask.run import SPLITS, Run, staged
from multitask.spec import Spec
from multitask.task_spec import TaskSpec
from multitask.tasks import Task, keep_metrics

_WORD = {"train": "training", "validation": "validation", "test": "test"}

Report = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]


def no_progress(_what: str, _done: int, _total: int | None) -> None:
    """Show nothing."""


@dataclass
class PreparedTask:
    """A task with its rows divided, and the rows that training will see.

    Attributes:
        task: The definition.
        source: Where its rows came from.
        rejects: What was left out when reading.
        parts: Its rows by split.
        read: How many rows each split of the source had.
        places: Rows of the training part in one pass over the mixture, by position.
        uses: Which use of its row each of them is, from 0.
        special: Special tokens that its cells held.
        odd: What is odd about its prompts.
    """

    task: Task
    source: Source
    rejects: Rejects
    parts: dict[str, Part]
    read: dict[str, int]
    special: SpecialTokens
    places: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    uses: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    odd: list[str] = field(default_factory=list)

    def phrasings(self, split: str, *, seed: int) -> Indices:
        """The number of the phrasing that each row of a held-out split gets."""
        count = len(self.task.templates)
        return pick_templates(self.parts[split].keys, None, count, seed=seed)


@dataclass
class Prepared:
    """The data half of a run, before it is written.

    Attributes:
        tasks: The tasks, in the order of the spec.
        gate: The leakage gate, with what it removed and reported.
        seed: The spec's seed.
        alpaca: Whether rows carry the Alpaca keys.
        beside: Tasks of the spec that took part in split and gate and were then left out.
    """

    tasks: list[PreparedTask]
    gate: LeakageGate
    seed: int
    alpaca: bool
    beside: tuple[str, ...] = ()

    def size(self, split: str) -> int:
        """How many rows a split has; of train, in one pass over the mixture."""
        return sum(self._sizes(split))

    def _sizes(self, split: str) -> list[int]:
        if split == "train":
            return [len(prepared.places) for prepared in self.tasks]
        return [len(prepared.parts[split].examples) for prepared in self.tasks]

    def lines(self, name: str) -> Iterator[str]:
        """A split line by line, as :meth:`blocks` has it."""
        for block in self.blocks(name):
            yield from block.to_pylist()

    def blocks(self, name: str) -> Iterator[pa.LargeStringArray]:
        """A split as JSON lines; train is the shuffled mixture, the others follow the tasks."""
        sizes = self._sizes(name)
        order = shuffled(sizes, seed=self.seed) if name == "train" else np.arange(sum(sizes))
        starts = np.cumsum([0, *sizes[:-1]])
        renderers = [Renderer(prepared.task, alpaca=self.alpaca) for prepared in self.tasks]
        step = min(prepared.parts[name].examples.step for prepared in self.tasks)
        for first in range(0, len(order), step):
            block = order[first : first + step]
            # A task without rows here has the next one's start: it is never meant.
            task_of = np.searchsorted(starts, block, side="right") - 1
            places, lines = [], []
            for i in np.unique(task_of).tolist():
                places.append(np.flatnonzero(task_of == i))
                rows, templates = self._chosen(self.tasks[i], name, block[places[-1]] - starts[i])
                lines.append(renderers[i].lines(rows, templates))
            if len(lines) > 1:
                back = np.argsort(np.concatenate(places))
                lines = [pa.concat_arrays(lines).take(arrow(back))]
            yield lines[0]

    def _chosen(self, prepared: PreparedTask, split: str, order: Indices) -> tuple[Rows, Indices]:
        """Rows of a split of a task, and the phrasing that each gets."""
        part = prepared.parts[split]
        places, uses = order, None
        if split == "train":
            places, uses = prepared.places[order], prepared.uses[order]
        count = len(prepared.task.templates)
        templates = pick_templates(part.keys[places], uses, count, seed=self.seed)
        return part.examples.take(places), templates


def prepare_tasks(
    spec: Spec, *, report: Report = lambda _: None, progress: Progress = no_progress
) -> Prepared:
    """Read the tasks of a spec, keep its splits apart, and choose what is trained on.

    Args:
        spec: From :func:`multitask.load_spec`.
        report: Told what is being done.
        progress: Told how many rows of a task are read.

    Raises:
        InputError: A source is missing or broken, has too many bad rows, or the mixture cannot
            be made.
    """
    tasks = []
    tokenizer = load_tokenizer(spec, Path())
    special = token_pattern(tokenizer)
    for entry in spec.tasks:
        declared = task_of(entry)
        report(f"reading {declared.name}")
        tasks.append(_read(declared, spec, special, progress))
    gate = _gate_and_split(tasks, spec, report)
    for prepared in tasks:
        for split, part in prepared.parts.items():
            official = split == "test" and "test" in prepared.read
            prepared.parts[split] = prepared.task.kind.arrange(
                prepared.task, part, spec.templates, official=official, seed=spec.seed
            )
    for prepared in tasks:
        held_out = {s: prepared.phrasings(s, seed=spec.seed) for s in ("validation", "test")}
        prepared.odd = check_scorable(prepared.task, prepared.parts, held_out)
        if tokenizer is not None:
            check_answers(prepared.task, tokenizer)
    sizes = mixture_sizes(
        {prepared.task.name: len(prepared.parts["train"].examples) for prepared in tasks},
        spec.mixture,
    )
    for prepared in tasks:
        part = prepared.parts["train"]
        distinct = min(
            len(part.examples), spec.mixture.caps.get(prepared.task.name, len(part.examples))
        )
        prepared.places, prepared.uses = choose(
            part.keys, distinct, sizes[prepared.task.name], seed=spec.seed
        )
    return Prepared(
        tasks=[prepared for prepared in tasks if prepared.task.name in spec.kept],
        gate=gate,
        seed=spec.seed,
        alpaca=uses_alpaca(spec, model_info(spec.model, Path())),
        beside=tuple(name for name in spec.task_names if name not in spec.kept),
    )


def uses_alpaca(spec: Spec, model: ModelInfo) -> bool:
    """Whether prompts take the Alpaca form: as asked for, or for want of a chat template."""
    if spec.templates.format != "auto":
        return spec.templates.format == "alpaca"
    return model.alpaca


def _read(
    declared: TaskSpec,
    spec: Spec,
    special: re.Pattern[str],
    progress: Progress,
) -> PreparedTask:
    data_dir = Path(spec.data_dir) if spec.data_dir else None
    source, data, rejects = read_task(
        declared,
        data_dir=data_dir,
        sample=spec.sample,
        on_rows=lambda rows: progress(f"reading {declared.name}", rows, None),
    )
    task = define_task(declared, data.labels, spec.templates)
    splits = {split: Rows.of(rows) for split, rows in data.splits.items()}
    found = guard_cells(
        splits,
        special,
        spec.templates.special_tokens,
        kind=task.kind,
        task=task.name,
        where=source.location,
    )
    parts = {split: Part(declared.name, split, rows) for split, rows in splits.items()}
    read = {split: len(rows) for split, rows in splits.items()}
    return PreparedTask(task, source, rejects, parts, read, found)


def _gate_and_split(tasks: Sequence[PreparedTask], spec: Spec, report: Report) -> LeakageGate:
    """Take leaks out, divide the training rows, and take out what then leaks between tasks."""
    if spec.leakage.near_duplicates:
        report("searching near-duplicates")
    gate = LeakageGate(_parts(tasks), spec.leakage, seed=spec.seed)
    for divide in (True, False):
        seen = len(gate.removed)
        gate.run(_parts(tasks))
        for prepared in tasks:
            _refuse_emptied(prepared, gate.removed[seen:])
            if divide:
                _divide(prepared, spec.split.train, gate, seed=spec.seed)
    return gate


def _parts(tasks: Sequence[PreparedTask]) -> list[Part]:
    return [part for prepared in tasks for part in prepared.parts.values()]


def _refuse_emptied(prepared: PreparedTask, removed: Sequence[Leak]) -> None:
    """Refuse a task of which the leakage gate took a whole split, or all training rows of a class.

    Raises:
        InputError: It did.
    """
    name = prepared.task.name
    for split, part in prepared.parts.items():
        mine = [leak for leak in removed if (leak.task, leak.split) == (name, split)]
        if not mine:
            continue
        what = f"no {_WORD[split]} row"
        if part.examples:
            if split != "train" or not prepared.task.kind.classes:
                continue
            lost = sorted({leak.label for leak in mine} - set(part.labels))
            if not lost:
                continue
            mine = [leak for leak in mine if leak.label == lost[0]]
            what += f" of the class {lost[0]!r}"
        levels = summary(mine)[f"{name}/{split}"]
        counts = ", ".join(f"{count:,} {level}" for level, count in levels.items())
        last = mine[-1]
        raise InputError(
            f"task {name!r}: {what} is left that is not also a row of another split; the leakage "
            f"gate removed {counts} (row {last.id!r} repeats "
            f"{last.other_task}/{last.other_split}/{last.other_id}: {last.level})",
            where=prepared.source.location,
            fix="check that the files of the splits are different ones; what counts as the same "
            "is said by `leakage: {remove: [...], near_duplicates: true|false, threshold: 0.8}`",
        )


def _divide(prepared: PreparedTask, train: float, gate: LeakageGate, *, seed: int) -> None:
    """Give the rows of a task's training pool a split; near-duplicates stay together.

    Official validation and test rows stay what they are. Of the pool, ``train`` is trained on;
    the rest goes to the splits that the source does not have, evenly. With both there, all of
    the pool is trained on.

    Raises:
        InputError: No row is left for the test split.
    """
    pool = prepared.parts["train"]
    missing = [split for split in ("validation", "test") if split not in prepared.parts]
    if not missing:
        return
    stratify = prepared.task.kind.closed
    classes = prepared.task.kind.classes
    gate.group(pool, by_label=classes)
    first = _split_mask(pool, train, stratify=stratify, seed=seed)
    prepared.parts["train"] = pool.take(first, "train")
    rest = pool.take(~first, missing[0])
    if len(missing) == 1:
        prepared.parts[missing[0]] = rest
    else:
        half = _split_mask(rest, 0.5, stratify=stratify, seed=seed + 1)
        prepared.parts["validation"] = rest.take(half, "validation")
        prepared.parts["test"] = rest.take(~half, "test")
    if not prepared.parts["test"].examples:
        raise InputError(
            f"task {prepared.task.name!r}: its {len(pool.examples):,} rows cannot be divided so "
            "that one is left for the test split, and nothing could be scored",
            where=prepared.source.location,
            fix="give more rows, a test file in `source`, or a smaller `split: {train: ...}`",
        )


def _split_mask(
    part: Part, fraction: float, *, stratify: bool, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    codes = part.examples.ranks if stratify else np.zeros(len(part.examples), dtype=np.int64)
    return stratified_split(codes, part.groups, fraction, seed=seed)


def prepare(
    spec: Spec,
    out: str | Path,
    *,
    report: Report = lambda _: None,
    progress: Progress = no_progress,
) -> Run:
    """Make a run directory that holds the data part alone.

    Args:
        spec: From :func:`multitask.load_spec`.
        out: The run directory; made whole or not at all.
        report: Told what is being done.
        progress: Told rows read or written, and rows in all where that is known.

    Raises:
        InputError: A source is missing or broken, or ``out`` holds something else.
    """
    out = Path(out)
    with no_garbage_collection():
        prepared = prepare_tasks(spec, report=report, progress=progress)
        with staged(out) as stage:
            Run(stage).spec.write_text(spec.to_yaml(), encoding="utf-8")
            write_data(prepared, spec, stage, progress=progress)
    return Run(out)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the cyclic collector from walking millions of live rows again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def write_data(
    prepared: Prepared, spec: Spec, root: Path, *, progress: Progress = no_progress
) -> None:
    """Write ``data/``, with its rows and ``manifest.json``, and ``plan.md`` below a directory."""
    run = Run(root)
    run.data.mkdir(parents=True, exist_ok=True)
    total = sum(prepared.size(split) for split in SPLITS)
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        progress("writing rows", min(done, total), total)

    hashes = {split: _write_split(prepared, split, run.split(split), advance) for split in SPLITS}
    train = iterate_rows(run.split("train"))
    write_general(run, spec.general, spec, train, alpaca=prepared.alpaca)
    tokens = count_tokens(spec, root, prepared)
    manifest = manifest_record(prepared, spec, hashes, tokens)
    for task in (p.task for p in prepared.tasks if p.task.metrics):
        manifest["tasks"][task.name]["metrics"] = list(keep_metrics(task, root).metrics)
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    run.manifest.write_text(text, encoding="utf-8")
    run.plan.write_text(plan_markdown(manifest), encoding="utf-8")


def _write_split(prepared: Prepared, split: str, path: Path, advance: Callable[[int], None]) -> str:
    """Write the rows of a split; return the file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for lines in prepared.blocks(split):
            content = content_of(lines).data
            file.write(content)
            digest.update(content)
            advance(len(lines))
    return digest.hexdigest()
