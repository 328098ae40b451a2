"""What a report says, gathered from a run's files as plain records; the same for every format."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multitask.data.readers import read_rows
from multitask.environment import environment
from multitask.errors import InputError, did_you_mean
from multitask.evaluation.baselines import TITLES
from multitask.evaluation.models import BASE_NAME, DEFAULT_NAME
from multitask.evaluation.requests import Settings
from multitask.files import read_json, read_mapping, read_text
from multitask.metrics.registry import adopt
from multitask.reports import answers as rows_of
from multitask.reports.training import read_lines, read_training
from multitask.reports.verdicts import (
    SINGLE,
    Record,
    findings,
    forgetting,
    general_comparisons,
    got_worse,
    hand_over,
    opponents,
    sharing,
    verdict,
    verdict_by_intervals,
)
from multitask.run import Run
from multitask.scrub import hide_secrets, hide_settings
from multitask.tasks import kind_named

Report = dict[str, Any]

# Mistakes and labels of a task that are shown.
_WORST, _MOST_LABELS = 12, 120
# Bytes of the listed predictions of all tasks together: a page that can be sent by e-mail.
_PREDICTIONS_SIZE = 1_500_000
_NONE, _NOT_RECORDED = "–", "not recorded"  # noqa: RUF001 (an en dash)
_OPPONENTS = TITLES | {SINGLE: "training it alone", BASE_NAME: "the base model"}
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


def gather(run: Run, evaluation: str | None = None) -> Report:
    """Read a run's evaluations, data and training events.

    Args:
        run: The run.
        evaluation: The one that the report is about; default: as `choose` does.

    Returns:
        All that the templates show: of the evaluation its ``name``, ``model``, ``split``, what
        `multitask.reports.verdicts` finds, and of each of the ``tasks`` what `_task` gives.

    Raises:
        InputError: The run has not been evaluated, or not under that name, or a file is damaged.
    """
    by_name = _evaluations(run)
    chosen, choice_notes = choose(list(by_name), evaluation)
    folder = by_name[chosen].parent
    results = read_json(by_name[chosen])
    adopt(results)
    shared, sharing_notes = _beside(
        folder / "interference.json",
        results,
        ("model", "data"),
        "compared with single-task runs before it was evaluated anew: compare again",
    )
    general, general_notes = _beside(
        folder / "general" / "results.json",
        results,
        ("model",),
        "general tasks were scored with other weights: evaluate again",
    )
    compared = _comparisons(results, shared)
    results["comparisons"] = compared
    manifest, spec = read_json(run.manifest), read_mapping(run.spec)
    others = [read_json(path) | {"_": name} for name, path in by_name.items() if name != chosen]
    rows: dict[str, dict[str, Any]] = {}
    for row in read_rows(run.split(results["split"])):
        rows.setdefault(row["task"], {})[row["id"]] = row
    tasks = [
        _task(name, results, manifest, folder, _others(name, results, others), rows)
        for name in results["tasks"]
    ]
    return {
        "name": spec["name"],
        "evaluation": chosen,
        "model": results["model"],
        "base_model": spec["model"],
        "split": results["split"],
        "limit": results["limit"],
        "tasks": tasks,
        "opponents": list(dict.fromkeys(o["name"] for task in tasks for o in task["opponents"])),
        "got_worse": _losses(results, general),
        "compared": bool(compared),
        "sharing": shared and sharing(shared, results),
        "forgetting": general and forgetting(general),
        "training": read_training(run),
        "sources": [_source(name, task) for name, task in manifest["tasks"].items()],
        "notes": [
            *_notes(run),
            *choice_notes,
            *results.get("notes", ()),
            *sharing_notes,
            *general_notes,
        ],
        "provenance": _provenance(run, manifest, results, shared, general),
    }


def _evaluations(run: Run) -> dict[str, Path]:
    """The results.json of every evaluation, by name."""
    found = sorted(run.evaluations.glob("*/results.json")) if run.evaluations.is_dir() else []
    if not found:
        raise InputError(
            "the run has not been evaluated",
            where=run.root,
            fix=f"run `multitask evaluate {run.root}`",
        )
    return {path.parent.name: path for path in found}


def choose(names: Sequence[str], wanted: str | None) -> tuple[str, list[str]]:
    """Which evaluation a report is about, and a note where that is not plain.

    What the user named; else that of the trained model; else the first by name that is not the
    base model's.

    Raises:
        InputError: There is none of the name.
    """
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"there is no evaluation {wanted!r}", fix=did_you_mean(wanted, names))
        return wanted, []
    if DEFAULT_NAME in names:
        return DEFAULT_NAME, []
    ordered = sorted(names, key=lambda name: (name == BASE_NAME, name))
    if len(ordered) == 1:
        return ordered[0], []
    others = ", ".join(ordered[1:])
    note = f"about the evaluation {ordered[0]!r}; there is also {others}: choose with --name"
    return ordered[0], [note]


def _beside(
    path: Path, results: Record, same: Iterable[str], stale: str
) -> tuple[dict[str, Any] | None, list[str]]:
    """A record beside an evaluation; one of other weights or data is a note instead."""
    if not path.is_file():
        return None, []
    record = read_json(path)
    mine, own = record.get("key", {}), results.get("key", {})
    if any(mine.get(name) != own.get(name) for name in same):
        return None, [stale]
    return record, []


def _comparisons(results: Record, shared: Record | None) -> dict[str, Any]:
    """The comparisons of results.json, with the single-task runs behind the base."""
    found = dict(results.get("comparisons", {}))
    if shared is None:
        return found
    base = {BASE_NAME: found.pop(BASE_NAME)} if BASE_NAME in found else {}
    return base | {SINGLE: shared["tasks"]} | found


def _losses(results: Record, general: Record | None) -> list[tuple[str, str]]:
    """What got worse, those beyond chance first."""
    found = list(got_worse(results, _OPPONENTS))
    if general is not None:
        compared = {BASE_NAME: general_comparisons(general)}
        found += got_worse({"tasks": {}, "comparisons": compared}, _OPPONENTS)
    return sorted(found, key=lambda loss: loss[1] != "worse")


def _others(task: str, main: Record, others: list[Any]) -> dict[str, Any]:
    """Metrics of the same task and split in the run's other evaluations."""
    return {
        results["_"]: results["tasks"][task]["metrics"]
        for results in others
        if all(results[key] == main[key] for key in ("split", "limit")) and task in results["tasks"]
    }


def _source(name: str, task: Record) -> dict[str, str]:
    source = task["source"]
    rows = {split: f"{count['rows']:,}" for split, count in task["counts"].items()}
    location = source["location"] + (f" @ {source['revision']}" if source["revision"] else "")
    return {"task": name, "source": location, **rows, "left out": f"{task['dropped']['count']:,}"}


def _notes(run: Run) -> list[str]:
    """What the user must not overlook, written beside the run by the command that knew it."""
    path = run.root / "notes.txt"
    return read_text(path).splitlines() if path.is_file() else []


def _task(
    name: str,
    results: Record,
    manifest: Record,
    folder: Path,
    others: Record,
    rows: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything about one task.

    Args:
        name: The task.
        results: The content of results.json, with every comparison that there is.
        manifest: The run's manifest.
        folder: The evaluation's folder.
        others: Metrics of this task in the run's other evaluations of the same rows, by name.
        rows: The rows of the split, by task and id.

    Returns:
        Beside counts: ``names``, the metrics in the order of tables, the headline first, and the
        one or two ``shown`` at once;
        ``systems``, what answered with its metrics, the model first; the ``verdict`` against all
        opponents and its class; and the parts of the page, empty or None where there is none.
    """
    task, labels = results["tasks"][name], manifest["tasks"][name]["labels"]
    kind = kind_named(task["kind"])
    headline = next(iter(task["metrics"]))
    names = list(task["metrics"])
    systems = [(folder.name, task["metrics"]), *others.items()]
    single = results["comparisons"].get(SINGLE, {}).get(name)
    if single is not None:
        systems.append((SINGLE, single["metrics"]))
    baselines = {t: task["baselines"][k] for k, t in TITLES.items() if k in task["baselines"]}
    against = opponents(name, results["comparisons"], TITLES)
    found, calibrated = rows_of.read_answers(name, labels, rows.get(name, {}), folder)
    sentence, kind_of_verdict = (
        verdict(against)
        if against
        else verdict_by_intervals(
            headline,
            task["metrics"][headline],
            {t: b[headline] for t, b in baselines.items() if headline in b},
        )
    )
    per_label = sorted(task.get("per_label", ()), key=_badness)
    return {
        "name": name,
        "kind": task["kind"].replace("_", " "),
        "n": task["n"],
        "labels": len(labels),
        "seconds": task["seconds"],
        "names": names,
        "shown": tuple(names[:2]),
        "systems": [{"name": n, "metrics": m} for n, m in (*systems, *baselines.items())],
        "verdict": sentence,
        "verdict_class": kind_of_verdict,
        "opponents": against,
        "hand_over": hand_over(task["calibration"]) if "calibration" in task else None,
        "findings": list(findings(task)),
        "mistakes": rows_of.mistakes(found, _WORST),
        "predictions": rows_of.listed(found, _PREDICTIONS_SIZE // len(results["tasks"])),
        "calibrated": calibrated,
        "confusion": rows_of.confusion(found, labels) if "confusion" in kind.sections else None,
        "per_label": per_label[:_MOST_LABELS],
        "labels_left_out": max(0, len(per_label) - _MOST_LABELS),
        "reliability": (
            task.get("reliability", []),
            rows_of.reliability(found) if calibrated else None,
        ),
        "positions": rows_of.positions(found, labels) if "positions" in kind.sections else [],
    }


def _badness(label: Record) -> tuple[bool, float]:
    """The worst F1 first; a label without rows says nothing of how well its rows are found."""
    return not label["support"], 1.0 if label["f1"] is None else label["f1"]["value"]


# Where the numbers come from


def _provenance(
    run: Run, manifest: Record, results: Record, shared: Record | None, general: Record | None
) -> dict[str, Any]:
    """What it takes to get the same numbers again."""
    tasks = manifest["tasks"]
    starts = [event for event in read_lines(run.trainer_events) if event.get("event") == "start"]
    trained_with = starts[-1].get("environment") if starts else None
    return {
        "spec": hide_settings(read_text(run.spec)),
        "plan": hide_secrets(read_text(run.plan)) if run.plan.is_file() else None,
        "drops": [
            (name, reason, count)
            for name, record in tasks.items()
            for reason, count in record["dropped"].get("reasons", {}).items()
        ],
        "leakage": _leakage(manifest.get("leakage", {})),
        "warnings": [(name, text) for name, t in tasks.items() for text in t.get("warnings", ())],
        "files": [
            (name, record["rows"], record["sha256"])
            for name, record in manifest.get("files", {}).items()
        ],
        "made_with": _made_with(trained_with, results.get("environment"), environment()),
        "settings": results.get("settings", {}),
        "seed": manifest.get("seed", "as the spec says"),
        "commands": _commands(run, manifest, results, shared, general),
    }


def _leakage(found: Record) -> list[str]:
    lines = [
        f"{what} {place}: " + ", ".join(how.format(f"{n:,}", level) for level, n in levels.items())
        for key, what, how in (
            ("removed", "removed from", "{} rows alike by {}"),
            ("reported", "kept in", "{} rows alike ({})"),
        )
        for place, levels in found.get(key, {}).items()
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


def _made_with(*parts: Record | None) -> dict[str, list[str]]:
    """Versions, commit and GPUs of the training, the evaluation and this report, by what it is."""
    columns = [_column(part) for part in parts]
    names: dict[str, str] = {}
    for column in columns:
        names |= column
    return {
        name: [column.get(name, _NONE if column else _NOT_RECORDED) for column in columns]
        for name in names
    }


def _column(part: Record | None) -> dict[str, str]:
    if part is None:
        return {}
    of_each: Counter[str] = Counter(part["gpus"])
    gpus = [f"{count} × {name}" for name, count in of_each.items()]  # noqa: RUF001
    versions: dict[str, str] = part["versions"]
    column = {"multitask": versions.get("multitask", _NONE)}
    column["commit of multitask"] = part["commit"] or _NOT_RECORDED
    column["GPUs of a machine"] = ", ".join(gpus) or "none"
    if "processes" in part:
        column["processes"] = str(part["processes"])
    return column | versions


def _commands(
    run: Run, manifest: Record, results: Record, shared: Record | None, general: Record | None
) -> list[str]:
    """What to run, in order."""
    name = run.root.name
    evaluate = ["multitask", "evaluate", name, "--split", results["split"]]
    if results.get("name"):
        evaluate += ["--name", results["name"]]
    if results.get("limit"):
        evaluate += ["--limit", str(results["limit"])]
    evaluate += _flags(results.get("settings", {}))
    for other in results["comparisons"]:
        if other == BASE_NAME:
            evaluate.append("--base")
        elif other not in TITLES and other != SINGLE:
            evaluate += ["--against", other]
    for task in {} if shared is None else dict.fromkeys(t["run"] for t in shared["tasks"].values()):
        evaluate += ["--compare", task]
    for task in {} if general is None else general_comparisons(general):
        if task not in manifest.get("general", ()):
            evaluate += ["--general", task]
    report = ["multitask", "report", name]
    if results.get("name", DEFAULT_NAME) != DEFAULT_NAME:
        report += ["--name", results["name"]]
    return [
        shlex.join(["multitask", "build-config", "spec.yaml", "--out", name]),
        shlex.join(["multitask", "train", name]),
        shlex.join(evaluate),
        shlex.join(report),
    ]


def _flags(settings: Record) -> list[str]:
    """The options of `multitask evaluate` that give these settings."""
    found = []
    for key, default in asdict(Settings()).items():
        value = settings.get(key, default)
        if value == default or key not in _OPTIONS:
            continue
        option = "--" + key.replace("_", "-")
        if isinstance(default, bool):
            found.append(option if value else option.replace("--", "--no-", 1))
        else:
            found += [option, str(value)]
    return found
