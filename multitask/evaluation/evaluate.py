"""``evaluate``: a run's split through a model, to results.json and predictions.parquet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from multitask.data.general import read_general, write_general
from multitask.data.readers import iterate_rows
from multitask.errors import InputError, did_you_mean
from multitask.evaluation.checkpoint import LAST, Choice, choose, consolidate
from multitask.evaluation.comparisons import check_opponents
from multitask.evaluation.inputs import GENERAL, Inputs, digests, general_inputs, read_inputs
from multitask.evaluation.model_key import model_key
from multitask.evaluation.models import base_model, load
from multitask.evaluation.names import BASE_NAME, general_name, name_of
from multitask.evaluation.outcome import ByTask, Outcome, check_rows
from multitask.evaluation.partial import Partial
from multitask.evaluation.parts import Part, Purpose, parts_of
from multitask.evaluation.settings import Settings
from multitask.evaluation.work import Finished, Progress, Work
from multitask.evaluation.world import World, join_world
from multitask.files import read_json, read_mapping
from multitask.run import SPLITS, Run
from multitask.scoring.model import LoadedModel
from multitask.scoring.scorer import Scorer
from multitask.spec import Spec, load_spec
from multitask.spec import name_of as task_name
from multitask.task_spec import TaskSpec

Report = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that was written.

    Attributes:
        directory: ``RUN/evaluation/NAME``.
        results: The content of its results.json.
        general: The same of the general tasks, compared with the base; None without any.
    """

    directory: Path
    results: dict[str, Any]
    general: dict[str, Any] | None = None


def evaluate(
    run: Run | str | Path,
    *,
    model: str | None = None,
    checkpoint: str | None = None,
    split: str = "test",
    name: str | None = None,
    limit: int | None = None,
    base: bool = False,
    against: Sequence[str] = (),
    general: Sequence[str | TaskSpec] = (),
    settings: Settings | None = None,
    restart: bool = False,
    progress: Progress = lambda _what, _done, _total, _note: None,
    report: Report = lambda _message: None,
) -> Evaluation:
    """Score a model on every task of a run and write the result.

    An evaluation that was interrupted goes on where it stopped when it is started again. In a
    process group (``torchrun``, ``accelerate launch``) the processes share the work; the first one
    writes, and all return the same.

    Args:
        run: A run with data, or the path of one.
        model: Path or Hub id; default: the run's trained model.
        checkpoint: ``best``, ``last`` or a step of the run's training, instead of ``model``;
            default: the spec's ``evaluation: {use: ...}``.
        split: ``train``, ``validation`` or ``test``.
        name: The evaluation's name; default: ``trained``, or the model's name.
        limit: Score only the first rows of each task.
        base: Evaluate the untuned base model too, as ``base``, and compare with it.
        against: Names of earlier evaluations to compare with on the same rows.
        general: General tasks beside those of the spec: both models are scored on them, which
            shows what was forgotten.
        settings: What is wanted beyond that.
        restart: Throw away what an interrupted evaluation of the name has.
        progress: Told what is done, how many rows of it, of how many, and how fast.
        report: Told in words what the user should know meanwhile.

    Raises:
        InputError: The run has no such split or no trained model, the model does not load, an
            opponent or a general task is missing, or an interrupted evaluation of the name had
            other settings.
        MultitaskError: The model cannot score a row.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}", fix=did_you_mean(split, SPLITS))
    settings = settings or Settings()
    choice = chosen_model(run, model, checkpoint)
    is_named = checkpoint is not None and choice is not None and choice.name != LAST
    own = name_of(choice.name if choice and is_named else model, name)
    if base and own == BASE_NAME:
        raise InputError(f"the evaluation {own!r} is the base model's", fix="choose another --name")
    earlier = [other for other in against if not (base and other == BASE_NAME)]
    check_opponents(run, earlier, own)
    inputs = read_inputs(run, split, limit, settings)
    for other in earlier:
        check_rows(inputs, run, other)
    world = join_world()
    chosen = str(model)
    if choice is not None:
        taken = choice
        world.share(world.name("model"), lambda: str(consolidate(run, taken, report)).encode())
        chosen = str(choice.folder)
        if choice.note:
            inputs = replace(inputs, notes=[choice.note, *inputs.notes])
    forgetting = None
    if own != BASE_NAME:
        forgetting = _general(run, general, limit, settings, world)
    together = _Together(_Models(run), inputs, settings, world, restart, progress, report)
    beside = None if forgetting is None else together.with_inputs(*forgetting)
    known: dict[str, Finished] | None = None
    if base:
        known = together.evaluate(base_model(run), BASE_NAME, None, (), keep=True)
    if beside is not None:
        beside.evaluate(base_model(run), general_name(BASE_NAME), None, (), keep=True)
    others = tuple(dict.fromkeys([*([BASE_NAME] if base else []), *against]))
    together.evaluate(chosen, own, known, others)
    found = None
    if beside is not None:
        beside.evaluate(chosen, general_name(own), None, (general_name(BASE_NAME),))
        found = _read(run.evaluations / general_name(own) / "results.json")
    directory = run.evaluations / own
    return Evaluation(directory, _read(directory / "results.json"), found)


def chosen_model(run: Run, model: str | None, checkpoint: str | None) -> Choice | None:
    """The run's own model that is wanted; None where another is.

    Raises:
        InputError: Both are given, or as :func:`~multitask.evaluation.checkpoint.choose`.
    """
    if model is not None and checkpoint is not None:
        raise InputError("--model and --checkpoint exclude each other", fix="leave one out")
    return choose(run, checkpoint) if model is None else None


def _general(
    run: Run,
    more: Sequence[str | TaskSpec],
    limit: int | None,
    settings: Settings,
    world: World,
) -> tuple[Inputs, Settings] | None:
    """The rows of the general tasks and how they are scored; None where there are none."""
    content = read_mapping(run.spec)
    if not more and not content.get("general"):
        return None
    spec = load_spec(run.spec)
    entries = {task_name(entry): entry for entry in (*spec.general, *more)}
    world.share(world.name("general"), lambda: _write_general(run, entries.values(), spec))
    # Not calibrated, and no baselines: there is nothing to fit either on.
    bare = replace(settings, calibration="none", baselines=False)
    return general_inputs(run, read_general(run, list(entries)), limit, bare), bare


def _write_general(run: Run, entries: Collection[str | TaskSpec], spec: Spec) -> bytes:
    """Write those that are missing; one process does it for all."""
    train = iterate_rows(run.split("train"))
    write_general(run, list(entries), spec, train, alpaca=False)
    return b"written"


def _read(path: Path) -> dict[str, Any]:
    return read_json(path)


class _Models:
    """Loads models, and keeps the last one for what follows."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._last: tuple[str, tuple[LoadedModel, list[str]]] | None = None

    def load(self, name: str, settings: Settings, report: Report) -> tuple[LoadedModel, list[str]]:
        """A model, and what a report should say of it."""
        if self._last is None or self._last[0] != name:
            self._last = None  # two at once may be more than the memory holds
            self._last = name, load(self.run, name, settings, report)
        return self._last[1]


@dataclass(frozen=True)
class _Together:
    """What the evaluations of one command share."""

    models: _Models
    inputs: Inputs
    settings: Settings
    world: World
    restart: bool
    progress: Progress
    report: Report

    @property
    def run(self) -> Run:
        return self.inputs.run

    def with_inputs(self, inputs: Inputs, settings: Settings) -> _Together:
        """The same for other rows."""
        return replace(self, inputs=inputs, settings=settings)

    def evaluate(
        self,
        model: str,
        name: str,
        known: Mapping[str, Finished] | None,
        others: Sequence[str],
        *,
        keep: bool = False,
    ) -> dict[str, Finished] | None:
        """Evaluate one model.

        Args:
            model: Path or Hub id.
            name: The evaluation's name.
            known: Of each task, its baselines; None where they are to be computed. They are
                needed in the leading process alone.
            others: Names of the opponents.
            keep: Leave an evaluation as it is that was made with the same key.

        Returns:
            The baselines of each task; None where they were not computed.
        """
        loaded, about_model = self.models.load(model, self.settings, self._say)
        key = self.inputs.key | {
            "model": model_key(model),
            "chat template": str(loaded.tokenizer.chat_template),
        }
        directory = self.run.evaluations / name
        if keep and self._is_there(directory, key):
            self._say(f"{name}: evaluated before with the same settings; taken as it is")
            return None
        work = self._work(loaded, name, known, key)
        found: ByTask = {task.name: {} for task in self.inputs.tasks}
        if self.world.leads:
            finished, notes = work.finished()
            for part in finished:
                found[part.part.task.name][part.part.purpose] = part
            for task, part in (known or {}).items():
                found[task][Purpose.BASELINES] = part
            self.report(f"{name}: computing metrics and intervals")
            about = {
                "settings": self.settings.record(),
                "processes": self.world.size,
                "key": digests(key),
            }
            notes = [*about_model, *notes]
            outcome = Outcome(self.run, name, loaded.name, self.inputs, found, notes)
            outcome.write(self.settings, others, about)
            Partial(directory).remove()
        self.world.meet(f"{work.name}/written")
        return {
            task: parts[Purpose.BASELINES]
            for task, parts in found.items()
            if Purpose.BASELINES in parts
        }

    def _work(
        self,
        loaded: LoadedModel,
        name: str,
        known: Mapping[str, Finished] | None,
        key: Mapping[str, str],
    ) -> Work:
        """Put all rows to a model; what was done before is not done again."""
        partial = Partial(self.run.evaluations / name)
        turn = self.world.name(name)
        work = Work(turn, self._parts(known), self.settings.block, partial, self.world)
        try:
            self.world.share(f"{turn}/open", lambda: self._open(partial, key, name))
            scorer = Scorer(loaded, token_budget=self.settings.token_budget)
            work.do(scorer, self._progress(name))
        except BaseException:
            if self.world.leads and not partial.blocks():
                partial.remove()
            raise
        return work

    def _progress(self, name: str) -> Progress:
        if name != BASE_NAME and self.inputs.split != GENERAL:
            return self.progress
        return lambda what, done, total, note: self.progress(f"{name}: {what}", done, total, note)

    def _say(self, message: str) -> None:
        if self.world.leads:
            self.report(message)

    def _is_there(self, directory: Path, key: Mapping[str, str]) -> bool:
        path = directory / "results.json"
        return path.is_file() and not self.restart and _read(path).get("key") == digests(key)

    def _open(self, partial: Partial, key: Mapping[str, str], name: str) -> bytes:
        blocks = partial.open(key, restart=self.restart)
        if blocks:
            self._say(f"{name}: going on where it stopped, with {blocks} blocks of rows done")
        return b"open"

    def _parts(self, known: Mapping[str, Finished] | None) -> list[Part]:
        return [
            part
            for task in self.inputs.tasks
            for part in parts_of(
                task,
                self.inputs.rows[task.name],
                self.settings,
                validation=self.inputs.validation[task.name],
                train=self.inputs.train(task.name),
            )
            if part.purpose is not Purpose.BASELINES or known is None
        ]
