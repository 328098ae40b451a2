"""Where the numbers of a report come from: data, drops, leakage, versions, commands."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multitask.environment import environment
from multitask.evaluation.names import BASE_NAME, DEFAULT_NAME
from multitask.evaluation.settings import Settings
from multitask.files import read_text
from multitask.reports.training import read_lines
from multitask.reports.words import BASELINES
from multitask.run import Run
from multitask.scrub import hide_secrets, hide_settings

_NOT_RECORDED = "not recorded"

# Settings of an evaluation that are options of the command.
_OPTIONS = {
    "distribution",
    "calibration",
    "target_precision",
    "baselines",
    "generate",
    "option_texts",
    "permutations",
    "dtype",
    "quantisation",
    "token_budget",
}


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
        made_with: Of the training, the evaluation and this report, by what it is: versions,
            commit of multitask, GPUs.
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
    made_with: dict[str, tuple[str, str, str]]
    settings: dict[str, str]
    seed: str
    commands: list[str]


def read_provenance(
    run: Run,
    manifest: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    compared: Sequence[str] = (),
    general: Sequence[str] = (),
) -> Provenance:
    """Gather it from the run's files.

    Args:
        run: The run.
        manifest: Its manifest.
        results: The content of results.json.
        compared: The single-task runs that it was compared with.
        general: General tasks that were named to the evaluation, not in the spec.
    """
    return Provenance(
        spec=hide_settings(read_text(run.spec)),
        plan=hide_secrets(read_text(run.plan)) if run.plan.is_file() else None,
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
        made_with=_made_with(_of_training(run), results.get("environment"), environment()),
        settings={key: str(value) for key, value in results.get("settings", {}).items()},
        seed=str(manifest.get("seed", "as the spec says")),
        commands=_commands(run, results, compared, general),
    )


def _leakage(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"removed from {place}: "
        + ", ".join(f"{count:,} rows alike by {level}" for level, count in levels.items())
        for place, levels in found.get("removed", {}).items()
    ]
    lines += [
        f"kept in {place}: "
        + ", ".join(f"{count:,} rows alike ({level})" for level, count in levels.items())
        for place, levels in found.get("reported", {}).items()
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


def _of_training(run: Run) -> Mapping[str, Any] | None:
    """What the last start of the training recorded."""
    starts = [event for event in read_lines(run.trainer_events) if event.get("event") == "start"]
    return starts[-1].get("environment") if starts else None


def _made_with(*parts: Mapping[str, Any] | None) -> dict[str, tuple[str, str, str]]:
    """Rows of a table with a column for each part."""
    columns = [_column(part) for part in parts]
    names = dict.fromkeys(name for column in columns for name in column)
    one, two, three = (
        {name: column.get(name, "–" if column else _NOT_RECORDED) for name in names}  # noqa: RUF001
        for column in columns
    )
    return {name: (one[name], two[name], three[name]) for name in names}


def _column(part: Mapping[str, Any] | None) -> dict[str, str]:
    if part is None:
        return {}
    gpus = [f"{count} × {name}" for name, count in Counter(part["gpus"]).items()]  # noqa: RUF001
    column: dict[str, str] = {"multitask": part["versions"].get("multitask", "–")}  # noqa: RUF001
    column["commit of multitask"] = part["commit"] or _NOT_RECORDED
    column["GPUs of a machine"] = ", ".join(gpus) or "none"
    if "processes" in part:
        column["processes"] = str(part["processes"])
    versions: Mapping[str, str] = part["versions"]
    return {**column, **versions}


def _commands(
    run: Run, results: Mapping[str, Any], compared: Sequence[str], general: Sequence[str]
) -> list[str]:
    name = run.root.name
    evaluate = ["multitask", "evaluate", name, "--split", results["split"]]
    if results.get("name"):
        evaluate += ["--name", results["name"]]
    if results.get("limit"):
        evaluate += ["--limit", str(results["limit"])]
    evaluate += _flags(results.get("settings", {}))
    for other in results.get("comparisons", {}):
        if other == BASE_NAME:
            evaluate.append("--base")
        elif other not in BASELINES:
            evaluate += ["--against", other]
    for option, values in (("--compare", compared), ("--general", general)):
        for value in values:
            evaluate += [option, value]
    report = ["multitask", "report", name]
    if results.get("name", DEFAULT_NAME) != DEFAULT_NAME:
        report += ["--name", results["name"]]
    return [
        shlex.join(["multitask", "build-config", "spec.yaml", "--out", name]),
        shlex.join(["multitask", "train", name]),
        shlex.join(evaluate),
        shlex.join(report),
    ]


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """The options of `multitask evaluate` that give these settings."""
    found = []
    for key, default in Settings().record().items():
        value = settings.get(key, default)
        if value == default or key not in _OPTIONS:
            continue
        option = "--" + key.replace("_", "-")
        if isinstance(default, bool):
            found.append(option if value else option.replace("--", "--no-", 1))
        else:
            found += [option, str(value)]
    return found
