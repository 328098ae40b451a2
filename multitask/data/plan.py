"""The mixture plan: what will be trained on, in a table a person reads before renting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
        *_leakage(manifest["leakage"]),
        *_warnings(tasks),
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


def _leakage(leakage: dict[str, Any]) -> list[str]:
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


def _warnings(tasks: dict[str, dict[str, Any]]) -> list[str]:
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
