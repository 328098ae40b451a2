"""The manifest of a run's data, and the mixture plan a person reads before renting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from multitask.data.leakage import LeakageGate, duplicates_within, summary
from multitask.data.options import alarms, independence_p_value
from multitask.data.render import pick_templates
from multitask.run import SPLITS
from multitask.spec import Spec, name_of
from multitask.tasks import task_record

if TYPE_CHECKING:
    from multitask.data.prepare import Prepared, PreparedTask
    from multitask.data.tokens import TokenCount

# Rows that were kept are listed up to this many; those that were removed, all.
_LISTED = 1000


def manifest_record(
    prepared: Prepared,
    spec: Spec,
    hashes: dict[str, str],
    tokens: dict[str, TokenCount] | None,
) -> dict[str, Any]:
    """The content of ``RUN/data/manifest.json``."""
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
    record["warnings"] = _task_warnings(p, gate, record)
    return record


def _label_counts(p: PreparedTask, split: str) -> dict[str, dict[str, int]]:
    if not p.task.kind.closed:
        return {}
    return {"labels": p.parts[split].examples.label_counts}


def _checks(p: PreparedTask, spec: Spec) -> dict[str, float]:
    """Chances that phrasing or position are as even as they should be; small ones are alarms."""
    if not p.task.kind.closed:
        return {}
    part = p.parts["train"]
    answers = part.labels
    count = len(p.task.templates)
    numbers = pick_templates(part.keys, None, count, seed=spec.seed)
    checks = {"template independent of answer": independence_p_value(numbers, answers)}
    checks |= p.task.kind.p_values(p.task, part)
    return {name: round(value, 6) for name, value in checks.items()}


def _task_warnings(p: PreparedTask, gate: LeakageGate, record: dict[str, Any]) -> list[str]:
    warnings = [*p.rejects.notes, *p.special.warnings(), *p.odd]
    if p.rejects.count:
        warnings.append(f"{p.rejects.count:,} rows could not be used")
    if record["mixture"]["epochs_seen"] > 10:
        seen = record["mixture"]["epochs_seen"]
        warnings.append(f"each row is seen {seen:g} times; more than 10 invites memorising")
    if p.task.kind.classes:
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


def plan_markdown(manifest: dict[str, Any]) -> str:
    """Describe the mixture of a manifest in Markdown.

    Args:
        manifest: As in ``RUN/data/manifest.json``.
    """
    tasks: dict[str, dict[str, Any]] = manifest["tasks"]
    lines = [
        "# Mixture plan",
        "",
        (
            f"{_total(tasks):,} training rows in one pass, {manifest['epochs']:g} epochs, "
            f"{manifest['mixture']['strategy']} mixture, seed {manifest['seed']}."
        ),
        *_beside(manifest.get("divided_with", ())),
        "",
        *_mixture_table(tasks),
        "",
        *_split_table(tasks),
        *_leakage_lines(manifest["leakage"]),
        *_warning_lines(tasks),
    ]
    return "\n".join(lines) + "\n"


def _beside(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"Divided and checked for leaks together with {', '.join(names)}, then left alone."]


def _total(tasks: dict[str, dict[str, Any]]) -> int:
    return sum(task["mixture"]["rows"] for task in tasks.values())


def _mixture_table(tasks: dict[str, dict[str, Any]]) -> list[str]:
    distinct = sum(task["counts"]["train"]["rows"] for task in tasks.values())
    lines = [
        (
            "| task | rows | in the mixture | times seen | share before | share in the mixture "
            "| tokens | supervised tokens |"
        ),
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    estimated = False
    for name, task in tasks.items():
        mixture, rows = task["mixture"], task["counts"]["train"]["rows"]
        tokens = task.get("tokens")
        estimated |= tokens is not None and tokens["counted"] < mixture["rows"]
        lines.append(
            f"| {name} | {rows:,} | {mixture['rows']:,} | {mixture['epochs_seen']:g} "
            f"| {rows / distinct:.1%} | {mixture['rows'] / _total(tasks):.1%} "
            f"| {_number(tokens, 'total')} | {_number(tokens, 'supervised')} |"
        )
    if all("tokens" not in task for task in tasks.values()):
        lines += ["", "Tokens are not counted: the model's tokenizer is not on this machine."]
    elif estimated:
        lines += ["", "Tokens are estimated from the first 2,000 rows of each task."]
    return lines


def _number(tokens: dict[str, Any] | None, key: str) -> str:
    return "-" if tokens is None else f"{tokens[key]:,}"


def _split_table(tasks: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| task | kind | labels | templates | train | validation | test | source |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, task in tasks.items():
        rows = {split: f"{count['rows']:,}" for split, count in task["counts"].items()}
        source = task["source"]
        revision = f" @ {source['revision'][:12]}" if source["revision"] else ""
        lines.append(
            f"| {name} | {task['kind']} | {len(task['labels']) or '-'} | {len(task['templates'])} "
            f"| {rows['train']} | {rows['validation']} | {rows['test']} "
            f"| {source['location']}{revision} |"
        )
    return lines


def _leakage_lines(leakage: dict[str, Any]) -> list[str]:
    searched = "near-duplicates not searched"
    if leakage["near_duplicates_searched"]:
        searched = f"near-duplicates from a similarity of {leakage['threshold']:g}"
    lines = ["", f"Leakage gate ({searched}):"]
    for key, verb in (("removed", "removed from"), ("reported", "kept, but alike, in")):
        for place, levels in leakage[key].items():
            counts = ", ".join(f"{count:,} {level}" for level, count in levels.items())
            lines.append(f"- {verb} {place}: {counts}")
    if len(lines) == 2:
        return ["", f"{lines[1]} nothing found."]
    return [*lines, "", "data/manifest.json lists the rows and those that they repeat."]


def _warning_lines(tasks: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, task in tasks.items():
        lines += [f"- {name}: {warning}" for warning in task["warnings"]]
        tokens = task.get("tokens")
        if tokens and tokens["too_long"]:
            lines.append(
                f"- {name}: {tokens['too_long']:.1%} of rows are longer than sequence_len "
                "and will be dropped by Axolotl"
            )
    return ["", "Warnings:", *lines] if lines else []
