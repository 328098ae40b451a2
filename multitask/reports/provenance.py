"""Where the numbers of a report come from: data, drops, leakage, versions, commands."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from multitask.run import Run

_PACKAGES = (
    "multitask",
    "axolotl",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "deepspeed",
    "numpy",
    "scikit-learn",
)


@dataclass(frozen=True)
class Provenance:
    """What it takes to get the same numbers again.

    Attributes:
        spec: The resolved spec, as written.
        plan: The plan, as written; None when the run has none.
        drops: Rows that were left out: task, reason, rows.
        leakage: What the leakage gate did, a sentence each.
        warnings: Warnings of the data preparation, by task.
        files: Every data file with rows and SHA-256.
        versions: Versions on the machine that wrote the report.
        settings: How the evaluation was made.
        seed: Seeds data and training.
        commands: What to run, in order.
    """

    spec: str
    plan: str | None
    drops: list[tuple[str, str, int]]
    leakage: list[str]
    warnings: list[tuple[str, str]]
    files: list[tuple[str, int, str]]
    versions: dict[str, str]
    settings: dict[str, str]
    seed: str
    commands: list[str]


def read_provenance(
    run: Run, manifest: Mapping[str, Any], results: Mapping[str, Any]
) -> Provenance:
    """Gather it from the run's files."""
    return Provenance(
        spec=run.spec.read_text(encoding="utf-8"),
        plan=run.plan.read_text(encoding="utf-8") if run.plan.is_file() else None,
        drops=[
            (task, reason, count)
            for task, record in manifest["tasks"].items()
            for reason, count in record["dropped"].get("reasons", {}).items()
        ],
        leakage=_leakage(manifest.get("leakage", {})),
        warnings=[
            (task, warning)
            for task, record in manifest["tasks"].items()
            for warning in record.get("warnings", ())
        ],
        files=[
            (name, record["rows"], record["sha256"])
            for name, record in manifest.get("files", {}).items()
        ],
        versions=_versions(),
        settings={key: str(value) for key, value in results.get("settings", {}).items()},
        seed=str(manifest.get("seed", "as the spec says")),
        commands=_commands(run, results),
    )


def _leakage(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"removed from {place}: "
        + ", ".join(f"{count:,} rows alike by {level}" for level, count in levels.items())
        for place, levels in found.get("removed", {}).items()
    ]
    if "near_duplicates_searched" in found:
        lines.append(
            f"near duplicates searched from a similarity of {found['threshold']}: "
            f"{found.get('contents_with_near_duplicates', 0):,} contents have one"
            if found["near_duplicates_searched"]
            else "near duplicates were not searched"
        )
    if not found.get("removed"):
        lines.append("no row of one split was found in another")
    return lines


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commands(run: Run, results: Mapping[str, Any]) -> list[str]:
    name = run.root.name
    evaluate = ["multitask", "evaluate", name, "--split", results["split"]]
    if results.get("name"):
        evaluate += ["--name", results["name"]]
    if results.get("limit"):
        evaluate += ["--limit", str(results["limit"])]
    if results.get("settings", {}).get("permutations"):
        evaluate.append("--permutations")
    if "base" in results.get("comparisons", {}):
        evaluate.append("--base")
    return [
        shlex.join(["multitask", "build-config", "spec.yaml", "--out", name]),
        shlex.join(["multitask", "train", name]),
        shlex.join(evaluate),
        shlex.join(["multitask", "report", name]),
    ]
