"""Writing the data part of a run: rows, manifest, plan."""

from __future__ import annotations

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from multitask.data.general import write_general
from multitask.data.leakage import LeakageGate, duplicates_within, summary
from multitask.data.options import alarms, independence_p_value, uniform_p_value
from multitask.data.plan import plan_markdown
from multitask.data.prepare import (
    Prepared,
    PreparedTask,
    Progress,
    Report,
    no_progress,
    prepare_tasks,
)
from multitask.data.render import Row, pick_templates
from multitask.data.tokens import TokenCount, count_tokens
from multitask.run import SPLITS, Run, staged
from multitask.spec import Spec, name_of
from multitask.tasks import Kind, task_record

_BLOCK = 1024
# Rows that were kept are listed up to this many; those that were removed, all.
_LISTED = 1000


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
    manifest = _manifest(prepared, spec, hashes, tokens)
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    run.manifest.write_text(text, encoding="utf-8")
    run.plan.write_text(plan_markdown(manifest), encoding="utf-8")


def _write_split(prepared: Prepared, split: str, path: Path, advance: Callable[[int], None]) -> str:
    """Write the rows of a split; return the file's SHA-256."""
    digest = hashlib.sha256()
    lines = prepared.lines(split)
    with path.open("wb") as file:
        while block := list(islice(lines, _BLOCK)):
            data = "".join(block).encode()
            file.write(data)
            digest.update(data)
            advance(len(block))
    return digest.hexdigest()


def _manifest(
    prepared: Prepared,
    spec: Spec,
    hashes: dict[str, str],
    tokens: dict[str, TokenCount] | None,
) -> dict[str, Any]:
    return {
        "seed": spec.seed,
        "epochs": spec.epochs,
        "split": spec.split.model_dump(),
        "mixture": spec.mixture.model_dump(),
        "divided_with": list(prepared.beside),
        "general": [name_of(entry) for entry in spec.general],
        "tasks": {
            p.task.name: _task_record(p, prepared.gate, spec, tokens) for p in prepared.tasks
        },
        "leakage": _leakage_record(prepared.gate, spec),
        "files": {
            f"{split}.jsonl": {"rows": prepared.size(split), "sha256": digest}
            for split, digest in hashes.items()
        },
    }


def _leakage_record(gate: LeakageGate, spec: Spec) -> dict[str, Any]:
    removed = [leak for leak in gate.removed if leak.task in spec.kept]
    reported = [leak for leak in gate.reported if leak.task in spec.kept]
    return {
        "remove": spec.leakage.remove,
        "report": spec.leakage.report,
        "near_duplicates_searched": gate.neighbours is not None,
        "threshold": spec.leakage.threshold,
        "contents_with_near_duplicates": None if gate.neighbours is None else len(gate.neighbours),
        "removed": summary(removed),
        "rows": [leak.record("removed_from") for leak in removed],
        "reported": summary(reported),
        "reported_rows": [leak.record("kept_in") for leak in reported[:_LISTED]],
        "divided": dict(gate.divided),
    }


def _task_record(
    p: PreparedTask, gate: LeakageGate, spec: Spec, tokens: dict[str, TokenCount] | None
) -> dict[str, Any]:
    train = p.parts["train"]
    mixed = len(p.places)
    distinct = min(len(train.examples), mixed)
    record = {
        **task_record(p.task),
        "source": p.source.record(),
        "read": p.read,
        "counts": {
            split: {
                "rows": len(p.parts[split].examples),
                **_label_counts(p, split),
            }
            for split in SPLITS
        },
        "mixture": {
            "rows": mixed,
            "distinct": distinct,
            "epochs_seen": round(spec.epochs * mixed / distinct, 4),
        },
        "duplicates_in_train": duplicates_within(train),
        "dropped": p.rejects.record(),
        "special_tokens": p.special.record(),
    }
    if tokens is not None:
        record["tokens"] = tokens[p.task.name].record()
    record["checks"] = _checks(p, spec)
    record["warnings"] = _warnings(p, gate, record)
    return record


def _label_counts(p: PreparedTask, split: str) -> dict[str, dict[str, int]]:
    if p.task.kind is Kind.GENERATION:
        return {}
    found = Counter(p.parts[split].labels)
    return {"labels": dict(sorted(found.items()))}


def _checks(p: PreparedTask, spec: Spec) -> dict[str, float]:
    """Chances that phrasing or position are as even as they should be; small ones are alarms."""
    if p.task.kind is Kind.GENERATION:
        return {}
    part = p.parts["train"]
    answers = part.labels
    count = len(p.task.templates)
    numbers = pick_templates(part.keys, None, count, seed=spec.seed)
    checks = {"template independent of answer": independence_p_value(numbers, answers)}
    choice = p.task.kind is Kind.MULTIPLE_CHOICE
    if choice and len({len(example.choices) for example in part.examples}) == 1:
        checks["gold position even"] = uniform_p_value(answers, p.task.labels)
    return {name: round(value, 6) for name, value in checks.items()}


def _warnings(p: PreparedTask, gate: LeakageGate, record: dict[str, Any]) -> list[str]:
    warnings = [*p.rejects.notes, *p.special.warnings(), *p.odd]
    if p.rejects.count:
        warnings.append(f"{p.rejects.count:,} rows could not be used")
    if record["mixture"]["epochs_seen"] > 10:
        seen = record["mixture"]["epochs_seen"]
        warnings.append(f"each row is seen {seen:g} times; more than 10 invites memorising")
    if p.task.kind is Kind.CLASSIFICATION:
        counts = record["counts"]["train"]["labels"]
        rare = [label for label in p.task.labels if counts.get(label, 0) < 5]
        if rare:
            shown = ", ".join(rare[:5]) + (" and more" if len(rare) > 5 else "")
            warnings.append(f"{len(rare)} classes have fewer than 5 training rows: {shown}")
    contradictory = record["duplicates_in_train"]["contradictory"]
    if contradictory:
        warnings.append(f"{contradictory:,} texts in train have more than one label")
    divided = gate.divided[p.task.name]
    if divided:
        warnings.append(
            f"{divided:,} pairs of near-duplicates may be in different splits, since all that "
            "hang together would be too large a part of the task; the gate removed what then leaked"
        )
    empty = [split for split in SPLITS if not record["counts"][split]["rows"]]
    warnings += [f"no {split} rows" for split in empty]
    return warnings + [f"check failed: {name}" for name in alarms(record["checks"])]


def iterate_rows(path: Path) -> Iterator[Row]:
    """Read back the rows of a split one by one."""
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def read_rows(path: Path) -> list[Row]:
    """Read back the rows of a split."""
    return list(iterate_rows(path))
