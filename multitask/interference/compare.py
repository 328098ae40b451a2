"""A multi-task run against runs of single tasks: what sharing one model gave and took."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from multitask.data.render import Row, gold
from multitask.errors import InputError
from multitask.evaluation.compare import Answers, compare_all, pairs, read_answers
from multitask.evaluation.evaluate import Evaluation, evaluate
from multitask.evaluation.models import (
    DEFAULT_NAME,
    base_model,
    choose,
    is_trained,
    model_key,
    name_of,
)
from multitask.evaluation.requests import Inputs, Settings, digests, read_inputs
from multitask.files import read_json
from multitask.interference.budget import (
    Budget,
    axolotl_config,
    budgets,
    same_budget,
    sequences_per_step,
    settings_that_differ,
)
from multitask.metrics.paired import PairedHits, holm, relative_gain
from multitask.run import Run, write_atomic
from multitask.tasks import Task

FILE_NAME = "interference.json"
SCHEMA_VERSION = 1

Report = Callable[[str], None]

# What decides which numbers a model gives, of the settings of an evaluation.
_NUMERIC = ("dtype", "quantisation")


@dataclass(frozen=True)
class Compared:
    """A comparison that was written.

    Attributes:
        evaluation: The multi-task run's evaluation.
        path: ``RUN/evaluation/NAME/interference.json``.
        record: Its content.
    """

    evaluation: Evaluation
    path: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class _Single:
    """A single-task run with its evaluation."""

    run: Run
    inputs: Inputs
    results: Mapping[str, Any]


def compare_runs(
    run: Run,
    singles: Sequence[Run],
    *,
    model: str | None = None,
    split: str = "test",
    name: str | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
    report: Report = lambda _message: None,
    leads: bool = True,
    **wanted: Any,
) -> Compared:
    """Compare a multi-task run with single-task runs, evaluating what is not evaluated yet.

    Evaluations that are there are taken as they are, if they are of these rows and of the weights
    that lie beside them; where the weights are elsewhere, their predictions are enough.

    Args:
        run: The multi-task run.
        singles: Runs of some of its tasks; no task in two of them.
        model: As in `evaluate`.
        split: As in `evaluate`.
        name: As in `evaluate`; single-task runs are evaluated as ``trained``.
        limit: As in `evaluate`.
        settings: As in `evaluate`.
        report: Told in words what the user should know meanwhile.
        leads: Whether this process writes the comparison.
        wanted: Further arguments of `evaluate` for the multi-task run; with any that asks for
            more than what is there, it is evaluated again.

    Raises:
        InputError: Runs do not have the same rows of a task, a task is in two runs or in none, or
            an evaluation of a single-task run is of something else.
    """
    settings = settings or Settings()
    inputs = read_inputs(run, split, limit, settings)
    pairs = _pair(inputs, singles, settings)
    own = name_of(model, name)
    found = None
    if not any(wanted.get(key) for key in ("base", "against", "general", "restart", "checkpoint")):
        found = _there(run, own, inputs, model)
    if found is None:
        evaluation = evaluate(
            run,
            model=model,
            split=split,
            name=name,
            limit=limit,
            settings=settings,
            report=report,
            **wanted,
        )
    else:
        report(f"{run.root.name}: evaluated before; taken as it is")
        evaluation = Evaluation(run.evaluations / own, found)
    scored = _settings(evaluation.results, settings)
    progress = {"progress": wanted["progress"]} if "progress" in wanted else {}
    others = [_evaluated(one, each, scored, report, progress) for one, each in pairs.items()]
    record = _compare(run, inputs, evaluation, others)
    path = evaluation.directory / FILE_NAME
    if leads:
        write_atomic(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return Compared(evaluation, path, record)


def _pair(inputs: Inputs, singles: Sequence[Run], settings: Settings) -> dict[Run, Inputs]:
    """Each run with its rows, once they are known to be the same as the multi-task run's."""
    tasks = {task.name: task for task in inputs.tasks}
    pairs: dict[Run, Inputs] = {}
    taken: dict[str, Run] = {}
    for single in singles:
        if single.root.resolve() == inputs.run.root.resolve():
            raise InputError("a run is compared with itself", where=single.root)
        theirs = read_inputs(single, inputs.split, inputs.limit, settings)
        shared = [task.name for task in theirs.tasks if task.name in tasks]
        if not shared:
            raise InputError(
                f"has no task of {inputs.run.root.name}",
                where=single.root,
                fix=f"its tasks: {', '.join(task.name for task in theirs.tasks)}",
            )
        for task in shared:
            if task in taken:
                raise InputError(
                    f"{task} is in {taken[task].root.name} and in {single.root.name}",
                    fix="compare with one run for each task",
                )
            taken[task] = single
            _require_same_rows(task, inputs, theirs)
        pairs[single] = theirs
    return pairs


def _require_same_rows(task: str, mine: Inputs, theirs: Inputs) -> None:
    one, other = (_marks(inputs.rows[task]) for inputs in (mine, theirs))
    if one == other:
        return
    ids, known = {mark[0] for mark in one}, {mark[0] for mark in other}
    if ids != known:
        what = f"{len(ids - known):,} of {len(ids):,} rows are missing there, "
        what += f"{len(known - ids):,} are not here"
    else:
        changed = sum(a != b for a, b in zip(sorted(one), sorted(other), strict=False))
        what = f"{changed:,} of {len(one):,} rows have another prompt or answer"
    raise InputError(
        f"{mine.split} rows of {task!r} are not those of {mine.run.root.name}: {what}",
        where=theirs.run.root,
        fix=f"make its spec with `multitask init --preset single-task --from {mine.run.root}`, "
        "and build it from the same data",
    )


def _marks(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """What must be the same of a row: id, prompt and right answer."""
    return [
        (row["id"], hashlib.sha256(row["messages"][0]["content"].encode()).hexdigest(), gold(row))
        for row in rows
    ]


def _there(run: Run, name: str, inputs: Inputs, model: str | None) -> dict[str, Any] | None:
    """An evaluation of these rows and of the model as it is now, if there is one."""
    path = run.evaluations / name / "results.json"
    if not path.is_file():
        return None
    results: dict[str, Any] = read_json(path)
    return results if _why_not(run, results, inputs, model) is None else None


def _why_not(run: Run, results: Mapping[str, Any], inputs: Inputs, model: str | None) -> str | None:
    """Why an evaluation cannot be taken as it is; None where it can."""
    if results["split"] != inputs.split:
        return f"of the split {results['split']}"
    if results["limit"] != inputs.limit:
        some = results["limit"]
        return "of all rows" if some is None else f"of the first {some} rows of each task"
    key = results.get("key", {})
    if key.get("data") != digests({"data": inputs.key["data"]})["data"]:
        return "of other data"
    chosen = model
    if model is None and is_trained(run):
        chosen = str(choose(run, None).folder)
    if (
        chosen is not None
        and Path(chosen).is_dir()
        and key.get("model") != digests({"model": model_key(chosen)})["model"]
    ):
        return "of other weights"
    return None


def _evaluated(
    run: Run, inputs: Inputs, settings: Settings, report: Report, progress: Mapping[str, Any]
) -> _Single:
    """A single-task run with its evaluation; made where there is none."""
    path = run.evaluations / DEFAULT_NAME / "results.json"
    if not path.is_file():
        report(f"{run.root.name}: evaluating it")
        evaluate(
            run,
            split=inputs.split,
            limit=inputs.limit,
            settings=settings,
            report=report,
            **progress,
        )
    results = read_json(path)
    reason = _why_not(run, results, inputs, None)
    if reason is None:
        scored = {key: results["settings"].get(key) for key in _NUMERIC}
        if scored != {key: getattr(settings, key) for key in _NUMERIC}:
            words = ", ".join(f"{key} {value}" for key, value in scored.items())
            reason = f"with {words}"
    if reason is not None:
        raise InputError(
            f"the evaluation is {reason}, so it cannot be compared with",
            where=path.parent,
            fix=f"run `multitask evaluate {run.root}` again as the multi-task run was evaluated",
        )
    return _Single(run, inputs, results)


def _settings(results: Mapping[str, Any], asked: Settings) -> Settings:
    """The settings that an evaluation was made with, where results.json has them."""
    record = results.get("settings", {})
    names = {field.name for field in fields(Settings)}
    return replace(asked, **{key: value for key, value in record.items() if key in names})


def _compare(
    run: Run, inputs: Inputs, evaluation: Evaluation, singles: Sequence[_Single]
) -> dict[str, Any]:
    own = read_answers(evaluation.directory)
    spent = budgets(run)
    tasks: dict[str, Any] = {}
    hits: dict[str, PairedHits] = {}
    notes: list[str] = []
    for single in singles:
        shared = [task for task in inputs.tasks if task.name in single.inputs.rows]
        theirs = read_answers(single.run.evaluations / DEFAULT_NAME)
        name = single.run.root.name
        compared = compare_all(shared, own, theirs, name, method="exact", labels=True)
        also_spent = budgets(single.run)
        for task in shared:
            record = {"run": name, **compared[task.name]}
            record["metrics"] = single.results["tasks"][task.name]["metrics"]
            record["budget"] = _budget(spent[task.name], also_spent[task.name])
            tasks[task.name] = record
            hits[task.name] = _hits(task, own, theirs)
        notes += _differences(run, single.run)
    adjusted = holm({task: record["p_value"] for task, record in tasks.items()})
    for task_name, record in tasks.items():
        record["p_holm"] = adjusted[task_name]
        if record["budget"]["same"] == "other":
            notes.append(f"{task_name}: the budgets are neither of the same rows nor steps")
    gain = relative_gain(hits)
    results = evaluation.results
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation": evaluation.directory.name,
        "split": results["split"],
        "limit": results["limit"],
        "tasks": {task.name: tasks[task.name] for task in inputs.tasks if task.name in tasks},
        "not_compared": [task.name for task in inputs.tasks if task.name not in tasks],
        "relative_gain": None if gain is None else gain.record(),
        "notes": notes,
        "key": results.get("key", {}),
    }


def _hits(task: Task, own: Mapping[str, Answers], other: Mapping[str, Answers]) -> PairedHits:
    (pair,) = pairs([task], own, other, task.name)
    return PairedHits(pair.right(pair.first), pair.right(pair.second), pair.first.items)


def _budget(mine: Budget, theirs: Budget) -> dict[str, Any]:
    return {
        "same": same_budget(mine, theirs),
        "same_training_rows": mine.train == theirs.train,
        "this": mine.record(),
        "other": theirs.record(),
    }


def _differences(run: Run, single: Run) -> list[str]:
    """What the trainings differ in besides their rows, in words."""
    name = single.root.name
    notes = []
    if _base_key(run) != _base_key(single):
        notes.append(f"{name} was trained from another base model")
    mine, theirs = sequences_per_step(run), sequences_per_step(single)
    if mine != theirs:
        notes.append(f"{name} took {theirs} sequences per optimizer step, {run.root.name} {mine}")
    for key, one, other in settings_that_differ(axolotl_config(run), axolotl_config(single)):
        notes.append(f"{name} was trained with {key} {other!r}, {run.root.name} with {one!r}")
    return notes


def _base_key(run: Run) -> str:
    name = base_model(run)
    return model_key(name) if Path(name).is_dir() else name
