"""The mixture plan: what will be trained on, in a table a person reads before renting."""

from __future__ import annotations

from typing import Any


def plan_markdown(manifest: dict[str, Any], *, epochs: float) -> str:
    """Describe the mixture of a manifest in Markdown.

    Args:
        manifest: As in ``RUN/data/manifest.json``.
        epochs: Passes over the training rows.
    """
    tasks = manifest["tasks"]
    total = sum(task["counts"]["train"]["rows"] for task in tasks.values())
    lines = [
        "# Mixture plan",
        "",
        f"{total:,} training rows, {epochs:g} epochs, seed {manifest['seed']}.",
        "",
        "| task | kind | labels | train | share | validation | test | source |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, task in tasks.items():
        rows = {split: count["rows"] for split, count in task["counts"].items()}
        lines.append(
            f"| {name} | {task['kind']} | {len(task['labels'])} | {rows['train']:,} "
            f"| {rows['train'] / total:.1%} | {rows['validation']:,} | {rows['test']:,} "
            f"| {_source(task['source'])} |"
        )
    dropped = {name: len(task["dropped"]) for name, task in tasks.items() if task["dropped"]}
    for name, count in dropped.items():
        lines += ["", f"{name}: {count} rows were left out; data/manifest.json says which and why."]
    return "\n".join(lines) + "\n"


def _source(source: dict[str, Any]) -> str:
    revision = f"@{source['revision'][:12]}" if source["revision"] else ""
    return f"{source['location']}{revision}"
