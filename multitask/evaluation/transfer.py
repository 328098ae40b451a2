"""A multi-task run against runs of single tasks: what sharing one model gave and took.

First the specs of the single tasks, then what a run was trained with (its budget), so that a
comparison can say whether budgets are the same, and last the comparison.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from multitask.cluster import load_cluster
from multitask.data.readers import iterate_rows
from multitask.data.render import Row, gold
from multitask.errors import InputError
from multitask.evaluation.compare import compare_all, pairs, read_answers
from multitask.evaluation.distributed import join_ranks
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
from multitask.evaluation.runner import Progress
from multitask.files import read_json, read_mapping, understood
from multitask.metrics.paired import PairedHits, holm, relative_gain
from multitask.reports.training import read_lines, tokens_by_task
from multitask.run import Run, staged_folder, write_atomic
from multitask.spec import Spec, load_spec
from multitask.training_spec import BalanceSpec

FILE_NAME = "interference.json"
SCHEMA_VERSION = 1

Report = Callable[[str], None]

Same = Literal["rows", "steps", "other"]

# Planned passes differ by rounding where a mixture takes parts of passes.
_CLOSE = 0.005

# Keys of axolotl.yaml that make no other training of a task: places, passes, saves, logs, and how
# a batch is spread, of which the product is compared.
_NOT_COMPARED = (
    "base_model",
    "dataset",
    "test_datasets",
    "output_dir",
    "num_epochs",
    "max_steps",
    "save_",
    "logging_",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "multitask",
    "wandb",
    "hub_",
    "plugins",
)

# What decides which numbers a model gives, of the settings of an evaluation.
_NUMERIC = ("dtype", "quantisation")

BudgetKind = Literal["rows", "steps"]

_WHY = {
    "rows": "The same budget in rows: it sees each row of {task} as often as {run} does, with the\n"
    "# same batch and learning rate, so it takes fewer optimizer steps.",
    "steps": "The same budget in steps: it takes the {steps:,} optimizer steps of {run}, with the\n"
    "# same batch and learning rate, so it sees each row of {task} more often.",
}
_HEADER = """\
# Written by `multitask init --preset single-task --from {run} --budget {budget}`.
# {task} alone, to be compared with {run}, of which it has the very rows of each split: `only`
# leaves the other tasks out after the split and the leakage gate.
# {why}
"""


@dataclass(frozen=True)
class SingleTask:
    """A spec for one task of a multi-task run, and what the file says above it."""

    task: str
    spec: Spec
    header: str

    def to_yaml(self) -> str:
        """The file."""
        return self.header + self.spec.to_yaml()


def single_task_specs(source: Path, budget: BudgetKind = "rows") -> list[SingleTask]:
    """Make a spec for each task of a multi-task run, or of its spec, alone.

    Everything is kept as it is in the run: model, method, learning rate, sequences per step, seed,
    templates, and the rows themselves. What only makes sense with several tasks (`balance`) or
    would overwrite something (`hub`) goes. With the budget ``rows`` each row of the task is seen
    as often as in the run; with ``steps`` it takes as many optimizer steps as the run did.

    Raises:
        InputError: There is one task alone, or the batch or the steps are not known.
    """
    spec = load_spec(source)
    if len(spec.kept) < 2:
        raise InputError(
            "there is one task alone, so nothing is shared", where=source, fix="name another run"
        )
    run = Run(source) if source.is_dir() else None
    update = {
        "global_batch_size": _batch(spec, source, run),
        "balance": BalanceSpec(),
        "hub": None,
        "general": (),
    }
    steps = _steps(source, run) if budget == "steps" else 0
    floor, found = spec.evaluation.floor, []
    for task in spec.kept:
        own = update | {"only": (task,), "name": f"{spec.name}-{task}"}
        if isinstance(floor, dict):
            of_task = {name: value for name, value in floor.items() if name == task}
            own["evaluation"] = spec.evaluation.model_copy(update={"floor": of_task})
        if steps and run is not None:
            own |= _for_steps(spec, run, task, steps)
        words = {"task": task, "run": source.name, "steps": steps}
        header = _HEADER.format(**words, budget=budget, why=_WHY[budget].format(**words))
        found.append(SingleTask(task, spec.model_copy(update=own), header))
    return found


def write_single_task_specs(
    source: Path, out: Path, budget: BudgetKind = "rows"
) -> list[tuple[SingleTask, Path]]:
    """Write them to a new folder, ``TASK.yaml`` each; one with content is refused."""
    specs = single_task_specs(source, budget)
    with staged_folder(out) as stage:
        for single in specs:
            (stage / f"{single.task}.yaml").write_text(single.to_yaml(), encoding="utf-8")
    return [(single, out / f"{single.task}.yaml") for single in specs]


def _batch(spec: Spec, source: Path, run: Run | None) -> int:
    """Sequences per optimizer step; by default they follow from the rows of all tasks."""
    built = None if run is None else sequences_per_step(run)
    if built is not None:
        return built
    if spec.global_batch_size is not None:
        return spec.global_batch_size
    raise InputError(
        "its global batch follows from its data, which is not built yet",
        where=source,
        fix="give the run that `multitask build-config` makes of it, or set `global_batch_size`",
    )


def _steps(source: Path, run: Run | None) -> int:
    steps = None if run is None else steps_of(run)
    if steps is None:
        raise InputError(
            "how many optimizer steps it takes is known once it is trained",
            where=source,
            fix="train it first, or use --budget rows",
        )
    return steps


def _for_steps(spec: Spec, run: Run, task: str, steps: int) -> dict[str, Any]:
    """Keys that end a training of one task after a number of steps."""
    tasks = read_json(run.manifest)["tasks"]
    total = sum(record["mixture"]["rows"] for record in tasks.values())
    # More passes than needed, for which the estimates allow; `max_steps` ends it.
    epochs = math.ceil(1.25 * spec.epochs * total / tasks[task]["mixture"]["rows"])
    own = {key: value for key, value in spec.axolotl.items() if key != "num_epochs"}
    return {"epochs": epochs, "axolotl": own | {"max_steps": steps}}


def budgets(run: Run) -> dict[str, dict[str, Any]]:
    """What a run spent on each of its tasks, as written to interference.json.

    Returns:
        ``rows``: distinct training rows. ``seen``: how often a row was to be seen, over all rows;
        None where a limit of steps decides. ``steps``: optimizer steps of the whole run; None
        where it was not trained with our plugin. ``tokens``: supervised tokens of the task, as
        logged; None likewise. ``train``: digest of the training rows, whatever their order.
    """
    manifest = read_json(run.manifest)
    config = axolotl_config(run)
    epochs = None if "max_steps" in config else float(config.get("num_epochs", manifest["epochs"]))
    tokens, rows = tokens_by_task(run.balance_log), _training_rows(run)
    return {
        task: {
            "rows": record["mixture"]["distinct"],
            "seen": None if epochs is None else epochs * record["mixture"]["rows"],
            "steps": steps_of(run),
            "tokens": tokens.get(task),
            "train": rows[task],
        }
        for task, record in manifest["tasks"].items()
    }


def same_budget(one: Mapping[str, Any], other: Mapping[str, Any]) -> Same:
    """In what two budgets agree: rows seen equally often, optimizer steps, or neither."""
    seen, again = one["seen"], other["seen"]
    known = one["train"] == other["train"] and seen is not None and again is not None
    if known and abs(seen - again) <= _CLOSE * seen:
        return "rows"
    return "steps" if one["steps"] is not None and one["steps"] == other["steps"] else "other"


def steps_of(run: Run) -> int | None:
    """Optimizer steps that a run took, or was to take when it was stopped; None: not known."""
    events = list(read_lines(run.trainer_events))
    return int(events[-1]["max_steps"]) if events else None


def sequences_per_step(run: Run) -> int | None:
    """The global batch of a run; None where it is not built."""
    config = axolotl_config(run)
    if not config:
        return None
    with understood(run.spec):
        world = load_cluster(str(read_mapping(run.spec)["cluster"])).world_size
    with understood(run.engine_file):
        return int(config["micro_batch_size"]) * int(config["gradient_accumulation_steps"]) * world


def axolotl_config(run: Run) -> dict[str, Any]:
    """The run's ``axolotl.yaml``; empty where there is none."""
    return read_mapping(run.engine_file) if run.engine_file.is_file() else {}


def settings_that_differ(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Keys of two ``axolotl.yaml`` that make another training, with both values."""
    if not one or not other:
        return []
    return [
        (key, one.get(key), other.get(key))
        for key in sorted({*one, *other})
        if not key.startswith(_NOT_COMPARED) and one.get(key) != other.get(key)
    ]


def _training_rows(run: Run) -> dict[str, str]:
    """A digest of each task's training rows with their phrasings, whatever their order.

    The sum of the rows' own digests modulo 2^128, since a sorted list would hold all rows.
    """
    sums: dict[str, int] = {}
    for row in iterate_rows(run.split("train")):
        content = json.dumps([row["id"], row["template"], row["messages"]]).encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        sums[row["task"]] = (sums.get(row["task"], 0) + int.from_bytes(digest)) % 2**128
    return {task: f"{value:032x}" for task, value in sums.items()}


def compare_runs(
    run: Run,
    singles: Sequence[Run],
    *,
    model: str | None = None,
    split: str = "test",
    name: str | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
    progress: Progress = lambda _what, _done, _total, _note: None,
    report: Report = lambda _message: None,
    **wanted: Any,
) -> tuple[Evaluation, dict[str, Any]]:
    """Compare a multi-task run with runs of some of its tasks, no task in two of them.

    What is not evaluated yet is: single-task runs as ``trained``, the multi-task run as the
    arguments of `evaluate` say; with any that asks for more than what is there, again.
    Evaluations that are there are taken as they are, if they are of these rows and of the weights
    that lie beside them; where the weights are elsewhere, their predictions are enough.

    Returns:
        The multi-task run's evaluation, and what was written to interference.json beside it.

    Raises:
        InputError: Runs do not have the same rows of a task, a task is in two runs or in none, or
            an evaluation of a single-task run is of something else.
    """
    settings = settings or Settings()
    inputs = read_inputs(run, split, limit, settings)
    rows_of = _same_rows(inputs, singles, settings)
    own, found = name_of(model, name), None
    if not any(wanted.get(key) for key in ("base", "against", "general", "restart", "checkpoint")):
        found = _there(run, own, inputs, model)
    asked: dict[str, Any] = {"split": split, "limit": limit, "progress": progress, "report": report}
    if found is None:
        evaluation = evaluate(run, model=model, name=name, settings=settings, **asked, **wanted)
    else:
        report(f"{run.root.name}: evaluated before; taken as it is")
        evaluation = Evaluation(run.evaluations / own, found)
    scored = _settings(evaluation.results, settings)
    for single, theirs in rows_of.items():
        _evaluate_once(single, theirs, scored, asked)
    record = _compare(run, inputs, evaluation, rows_of)
    if join_ranks().leads:
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        write_atomic(evaluation.directory / FILE_NAME, text)
    return evaluation, record


def _same_rows(inputs: Inputs, singles: Sequence[Run], settings: Settings) -> dict[Run, Inputs]:
    """Each run with its rows, once they are known to be the same as the multi-task run's."""
    tasks = {task.name: task for task in inputs.tasks}
    found: dict[Run, Inputs] = {}
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
        found[single] = theirs
    return found


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
    chosen = str(choose(run, None).folder) if model is None and is_trained(run) else model
    known = {"data": inputs.key["data"]}
    if chosen is not None and Path(chosen).is_dir():
        known["model"] = model_key(chosen)
    key, what = results.get("key", {}), {"data": "of other data", "model": "of other weights"}
    return next((what[n] for n, digest in digests(known).items() if key.get(n) != digest), None)


def _evaluate_once(run: Run, inputs: Inputs, settings: Settings, asked: Mapping[str, Any]) -> None:
    """Evaluate a single-task run where it is not yet; refuse an evaluation of something else."""
    path = run.evaluations / DEFAULT_NAME / "results.json"
    if not path.is_file():
        asked["report"](f"{run.root.name}: evaluating it")
        evaluate(run, settings=settings, **asked)
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


def _settings(results: Mapping[str, Any], asked: Settings) -> Settings:
    """The settings that an evaluation was made with, where results.json has them."""
    record = results.get("settings", {})
    names = {field.name for field in fields(Settings)}
    return replace(asked, **{key: value for key, value in record.items() if key in names})


def _compare(
    run: Run, inputs: Inputs, evaluation: Evaluation, singles: Mapping[Run, Inputs]
) -> dict[str, Any]:
    own = read_answers(evaluation.directory)
    spent = budgets(run)
    tasks: dict[str, Any] = {}
    hits: dict[str, PairedHits] = {}
    notes: list[str] = []
    for single, same in singles.items():
        shared = [task for task in inputs.tasks if task.name in same.rows]
        directory, name = single.evaluations / DEFAULT_NAME, single.root.name
        theirs, results = read_answers(directory), read_json(directory / "results.json")
        compared = compare_all(shared, own, theirs, name, method="exact", labels=True)
        also_spent = budgets(single)
        for task in shared:
            record = {"run": name, **compared[task.name]}
            record["metrics"] = results["tasks"][task.name]["metrics"]
            mine, other = spent[task.name], also_spent[task.name]
            record["budget"] = {
                "same": same_budget(mine, other),
                "same_training_rows": mine["train"] == other["train"],
                "this": mine,
                "other": other,
            }
            tasks[task.name] = record
            (pair,) = pairs([task], own, theirs, name)
            hits[task.name] = PairedHits(
                pair.right(pair.first), pair.right(pair.second), pair.first.items
            )
        notes += _differences(run, single)
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


def _differences(run: Run, single: Run) -> list[str]:
    """What the trainings differ in besides their rows, in words."""
    name = single.root.name
    notes = []
    bases = [base_model(one) for one in (run, single)]
    one, other = (model_key(base) if Path(base).is_dir() else base for base in bases)
    if one != other:
        notes.append(f"{name} was trained from another base model")
    mine, theirs = sequences_per_step(run), sequences_per_step(single)
    if mine != theirs:
        notes.append(f"{name} took {theirs} sequences per optimizer step, {run.root.name} {mine}")
    for key, this, that in settings_that_differ(axolotl_config(run), axolotl_config(single)):
        notes.append(f"{name} was trained with {key} {that!r}, {run.root.name} with {this!r}")
    return notes
