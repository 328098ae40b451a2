"""``evaluate``: a run's split through a model, to results.json and predictions.parquet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from multitask.data.general import read_general, write_general
from multitask.data.readers import iterate_rows
from multitask.errors import InputError
from multitask.evaluation.compare import check_opponents
from multitask.evaluation.distributed import Ranks, join_ranks
from multitask.evaluation.models import (
    BASE_NAME,
    LAST,
    Choice,
    base_model,
    choose,
    consolidate,
    general_name,
    load,
    model_key,
    name_of,
)
from multitask.evaluation.requests import (
    GENERAL,
    Inputs,
    Settings,
    digests,
    general_inputs,
    read_inputs,
    requests_for,
)
from multitask.evaluation.results import write_results
from multitask.evaluation.runner import Progress, Runner
from multitask.files import read_json, read_mapping
from multitask.run import Run
from multitask.scoring.model import LoadedModel
from multitask.scoring.scorer import Scorer
from multitask.spec import load_spec
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
    inputs = read_inputs(run, split, limit, settings or Settings())
    choice = chosen_model(run, model, checkpoint)
    named = choice.name if choice and checkpoint and choice.name != LAST else model
    own, others = name_of(named, name), [one for one in against if not base or one != BASE_NAME]
    if base and own == BASE_NAME:
        raise InputError(f"the evaluation {own!r} is the base model's", fix="choose another --name")
    check_opponents(inputs, others, own)
    session = _Session(run, join_ranks(), restart, progress, report)
    if choice is not None:
        model = session.consolidated(choice)
        if choice.note:
            inputs = replace(inputs, notes=[choice.note, *inputs.notes])
    beside = None if own == BASE_NAME else session.general(general, inputs)
    if base:
        session.evaluate(base_model(run), BASE_NAME, inputs, keep=True)
        others.insert(0, BASE_NAME)
    if beside is not None:
        session.evaluate(base_model(run), general_name(BASE_NAME), beside, keep=True)
    results = session.evaluate(str(model), own, inputs, others)
    if beside is None:
        return Evaluation(run.evaluations / own, results)
    before = [general_name(BASE_NAME)]
    forgotten = session.evaluate(str(model), general_name(own), beside, before)
    return Evaluation(run.evaluations / own, results, forgotten)


def chosen_model(run: Run, model: str | None, checkpoint: str | None) -> Choice | None:
    """The run's own model that is wanted; None where another is.

    Raises:
        InputError: Both are given, the training has not ended, or the checkpoint is not there.
    """
    if model is not None and checkpoint is not None:
        raise InputError("--model and --checkpoint exclude each other", fix="leave one out")
    return choose(run, checkpoint) if model is None else None


@dataclass
class _Session:
    """What the evaluations of one command share: the processes, and the model last loaded."""

    _run: Run
    _ranks: Ranks
    _restart: bool
    _progress: Progress
    _told: Report
    _loaded: tuple[str, tuple[LoadedModel, list[str]]] | None = None

    def _report(self, message: str) -> None:
        if self._ranks.leads:
            self._told(message)

    def consolidated(self, choice: Choice) -> str:
        """The folder of a choice, once it is whole."""
        self._ranks.first(lambda: consolidate(self._run, choice, self._report))
        return str(choice.folder)

    def general(self, more: Sequence[str | TaskSpec], inputs: Inputs) -> Inputs | None:
        """The rows of the general tasks, written where they are missing; None without any."""
        if not more and not read_mapping(self._run.spec).get("general"):
            return None
        spec = load_spec(self._run.spec)
        entries = {task_name(entry): entry for entry in (*spec.general, *more)}

        def write() -> None:
            train = iterate_rows(self._run.split("train"))
            write_general(self._run, list(entries.values()), spec, train, alpaca=False)

        self._ranks.first(write)
        found = read_general(self._run, list(entries))
        return general_inputs(self._run, found, inputs.limit, inputs.settings)

    def evaluate(
        self,
        model: str,
        name: str,
        inputs: Inputs,
        others: Sequence[str] = (),
        *,
        keep: bool = False,
    ) -> dict[str, Any]:
        """Evaluate one model and compare it with others; the content of results.json.

        With ``keep`` an evaluation that was made with the same key is left as it is.
        """
        loaded, about_model = self._load(model, inputs.settings)
        key = inputs.key | {
            "model": model_key(model),
            "chat template": str(loaded.tokenizer.chat_template),
        }
        directory = self._run.evaluations / name
        path = directory / "results.json"
        if keep and path.is_file() and not self._restart:
            results = read_json(path)
            if results.get("key") == digests(key):
                self._report(f"{name}: evaluated before with the same settings; taken as it is")
                return results
        requests = [one for task in inputs.tasks for one in requests_for(inputs, task)]
        runner = Runner(directory, requests, inputs.settings.block, self._ranks)
        self._score(runner, loaded, name, inputs, key)

        def write() -> None:
            self._report(f"{name}: computing metrics and intervals")
            scores, notes = runner.scores()
            about = {
                "notes": [*about_model, *notes],
                "settings": asdict(inputs.settings),
                "processes": self._ranks.size,
                "key": digests(key),
            }
            write_results(directory, loaded.name, inputs, scores, others, about)
            runner.remove()

        self._ranks.first(write)
        return read_json(path)

    def _score(
        self,
        runner: Runner,
        loaded: LoadedModel,
        name: str,
        inputs: Inputs,
        key: Mapping[str, str],
    ) -> None:
        """Put all rows to the model; what was done before is not done again."""

        def begin() -> None:
            if blocks := runner.open(key, restart=self._restart):
                self._report(
                    f"{name}: going on where it stopped, with {blocks} blocks of rows done"
                )

        def progress(what: str, done: int, total: int, note: str) -> None:
            is_own = name != BASE_NAME and inputs.split != GENERAL
            self._progress(what if is_own else f"{name}: {what}", done, total, note)

        try:
            self._ranks.first(begin)
            runner.run(Scorer(loaded, token_budget=inputs.settings.token_budget), progress)
        except BaseException:
            if self._ranks.leads and not runner.begun:
                runner.remove()
            raise

    def _load(self, name: str, settings: Settings) -> tuple[LoadedModel, list[str]]:
        """A model, and what a report should say of it; the last one is kept for what follows."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # two at once may be more than the memory holds
            self._loaded = name, load(self._run, name, settings, self._report)
        return self._loaded[1]
