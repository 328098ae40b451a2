"""What a report says, gathered from a run's files; the same for every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.data.readers import read_rows
from multitask.data.render import Row
from multitask.errors import InputError, did_you_mean
from multitask.evaluation.names import BASE_NAME, DEFAULT_NAME
from multitask.files import read_json, read_mapping, read_text
from multitask.reports.provenance import Provenance, read_provenance
from multitask.reports.sharing import (
    SINGLE,
    Forgetting,
    Sharing,
    read_forgetting,
    read_sharing,
)
from multitask.reports.task import TaskReport, task_report
from multitask.reports.training import Training, read_training
from multitask.reports.verdicts import got_worse
from multitask.reports.words import BASELINES
from multitask.run import Run


@dataclass(frozen=True)
class ReportContent:
    """A whole report."""

    name: str
    evaluation: str
    model: str
    base_model: str
    split: str
    limit: int | None
    evaluations: list[str]
    tasks: list[TaskReport]
    got_worse: list[tuple[str, str]]
    compared: bool
    sharing: Sharing | None
    forgetting: Forgetting | None
    training: Training
    sources: list[dict[str, str]]
    notes: list[str]
    provenance: Provenance

    @property
    def opponents(self) -> list[str]:
        """What any task is compared with, in order."""
        return list(dict.fromkeys(o.name for task in self.tasks for o in task.opponents))


def gather(run: Run, evaluation: str | None = None) -> ReportContent:
    """Read a run's evaluations, data and training events.

    Args:
        run: The run.
        evaluation: The one that the report is about; default: as `choose` does.

    Raises:
        InputError: The run has not been evaluated, or not under that name.
    """
    by_name = _evaluations(run)
    chosen, choice_notes = choose(list(by_name), evaluation)
    main = by_name[chosen]
    results = read_json(main)
    sharing, sharing_notes = read_sharing(main.parent, results)
    forgotten, forgotten_notes = read_forgetting(main.parent, results)
    compared = _comparisons(results, sharing)
    manifest = read_json(run.manifest)
    spec = read_mapping(run.spec)
    others = [read_json(path) | {"_": name} for name, path in by_name.items() if name != chosen]
    rows = _rows(run, results["split"])
    return ReportContent(
        name=spec["name"],
        evaluation=chosen,
        model=results["model"],
        base_model=spec["model"],
        split=results["split"],
        limit=results["limit"],
        evaluations=list(by_name),
        tasks=[
            task_report(
                name,
                results | {"comparisons": compared},
                manifest,
                main.parent,
                _others(name, results, others),
                rows,
            )
            for name in results["tasks"]
        ],
        got_worse=_losses(results, compared, forgotten),
        compared=bool(compared),
        sharing=sharing,
        forgetting=forgotten,
        training=read_training(run),
        sources=[_source(name, task) for name, task in manifest["tasks"].items()],
        notes=[
            *_notes(run),
            *choice_notes,
            *results.get("notes", ()),
            *sharing_notes,
            *forgotten_notes,
        ],
        provenance=read_provenance(
            run,
            manifest,
            results,
            compared=[] if sharing is None else sharing.runs,
            general=_named(manifest, forgotten),
        ),
    )


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


def _named(manifest: Mapping[str, Any], forgotten: Forgetting | None) -> list[str]:
    """General tasks that the spec does not have."""
    pairs = [] if forgotten is None else forgotten.tasks
    return [pair.task for pair in pairs if pair.task not in manifest.get("general", ())]


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


def _comparisons(results: Mapping[str, Any], sharing: Sharing | None) -> dict[str, Any]:
    """The comparisons of results.json, with the single-task runs behind the base."""
    found = dict(results.get("comparisons", {}))
    if sharing is None:
        return found
    base = {BASE_NAME: found.pop(BASE_NAME)} if BASE_NAME in found else {}
    return base | {SINGLE: sharing.comparisons} | found


def _losses(
    results: Mapping[str, Any], compared: Mapping[str, Any], forgotten: Forgetting | None
) -> list[tuple[str, str]]:
    """What got worse, those beyond chance first."""
    titles = BASELINES | {SINGLE: "training it alone", BASE_NAME: "the base model"}
    tasks: dict[str, Any] = {"tasks": results["tasks"], "comparisons": compared}
    found = list(got_worse(tasks, titles))
    if forgotten is not None:
        general = {"general": forgotten.comparisons}
        found += got_worse({"tasks": {}, "comparisons": general}, {"general": "the base model"})
    return sorted(found, key=lambda loss: loss[1] != "worse")


def _rows(run: Run, split: str) -> dict[str, dict[str, Row]]:
    """The rows of a split by task and id."""
    found: dict[str, dict[str, Row]] = {}
    for row in read_rows(run.split(split)):
        found.setdefault(row["task"], {})[row["id"]] = row
    return found


def _others(task: str, main: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of the same task and split in the run's other evaluations."""
    return {
        results["_"]: results["tasks"][task]["metrics"]
        for results in others
        if all(results[key] == main[key] for key in ("split", "limit")) and task in results["tasks"]
    }


def _source(name: str, task: dict[str, Any]) -> dict[str, str]:
    source = task["source"]
    rows = {split: f"{count['rows']:,}" for split, count in task["counts"].items()}
    location = source["location"] + (f" @ {source['revision']}" if source["revision"] else "")
    return {"task": name, "source": location, **rows, "left out": f"{task['dropped']['count']:,}"}


def _notes(run: Run) -> list[str]:
    """What the user must not overlook, written beside the run by the command that knew it."""
    path = run.root / "notes.txt"
    return read_text(path).splitlines() if path.is_file() else []
