"""``evaluate``: a run's split through a model, to results.json and predictions.parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.errors import InputError, did_you_mean
from multitask.evaluation.comparisons import check_opponents
from multitask.evaluation.inputs import Inputs, read_inputs
from multitask.evaluation.models import base_model, load, trained_model
from multitask.evaluation.names import BASE_NAME, name_of
from multitask.evaluation.outcome import ByTask, Outcome, check_rows
from multitask.evaluation.partial import Partial, model_key
from multitask.evaluation.parts import Part, Purpose, parts_of
from multitask.evaluation.settings import Settings
from multitask.evaluation.work import Finished, Progress, Work
from multitask.evaluation.world import World, join_world
from multitask.run import SPLITS, Run
from multitask.scoring.scorer import DEFAULT_TOKEN_BUDGET, LabelScorer

Report = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that was written.

    Attributes:
        directory: ``RUN/evaluation/NAME``.
        results: The content of its results.json.
    """

    directory: Path
    results: dict[str, Any]


def evaluate(
    run: Run | str | Path,
    *,
    model: str | None = None,
    split: str = "test",
    name: str | None = None,
    limit: int | None = None,
    base: bool = False,
    against: Sequence[str] = (),
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
        split: ``train``, ``validation`` or ``test``.
        name: The evaluation's name; default: ``trained``, or the model's name.
        limit: Score only the first rows of each task.
        base: Evaluate the untuned base model too, as ``base``, and compare with it.
        against: Names of earlier evaluations to compare with on the same rows.
        settings: What is wanted beyond that.
        restart: Throw away what an interrupted evaluation of the name has.
        progress: Told what is done, how many rows of it, of how many, and how fast.
        report: Told in words what the user should know meanwhile.

    Raises:
        InputError: The run has no such split or no trained model, the model does not load, an
            opponent is missing, or an interrupted evaluation of the name had other settings.
        MultitaskError: The model cannot score a row.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}", fix=did_you_mean(split, SPLITS))
    settings = settings or Settings()
    own = name_of(model, name)
    if base and own == BASE_NAME:
        raise InputError(f"the evaluation {own!r} is the base model's", fix="choose another --name")
    check_opponents(run, [other for other in against if not (base and other == BASE_NAME)], own)
    chosen = str(trained_model(run)) if model is None else model
    inputs = read_inputs(run, split, limit, settings)
    for other in against:
        if not (base and other == BASE_NAME):
            check_rows(inputs, run, other)
    together = _Together(run, inputs, settings, join_world(), restart, progress, report)
    known: dict[str, Finished] | None = None
    if base:
        known = together.evaluate(base_model(run), BASE_NAME, None, (), keep=True)
    others = tuple(dict.fromkeys([*([BASE_NAME] if base else []), *against]))
    together.evaluate(chosen, own, known, others)
    directory = run.evaluations / own
    return Evaluation(directory, _read(directory / "results.json"))


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@dataclass(frozen=True)
class _Together:
    """What the evaluations of one command share."""

    run: Run
    inputs: Inputs
    settings: Settings
    world: World
    restart: bool
    progress: Progress
    report: Report

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
        loaded, about_model = load(self.run, model, self.settings)
        key = self.inputs.key | {
            "model": model_key(model),
            "chat template": str(loaded.tokenizer.chat_template),
        }
        directory = self.run.evaluations / name
        if keep and self._is_there(directory, key):
            self._say(f"{name}: evaluated before with the same settings; taken as it is")
            return None
        parts = self._parts(known)
        partial = Partial(directory)
        turn = self.world.name(name)
        work = Work(turn, parts, self.settings.block, partial, self.world)
        try:
            self.world.share(f"{turn}/open", lambda: self._open(partial, key, name))
            budget = self.settings.token_budget or DEFAULT_TOKEN_BUDGET
            scorer = LabelScorer(loaded.model, token_budget=budget)
            work.do(loaded, scorer, self._progress(name))
        except BaseException:
            if self.world.leads and not partial.blocks():
                partial.remove()
            raise
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
                "key": _digests(key),
            }
            outcome = Outcome(
                self.run, name, loaded.name, self.inputs, found, [*about_model, *notes]
            )
            outcome.write(self.settings, others, about)
            partial.remove()
        self.world.meet(f"{turn}/written")
        return {
            task: parts[Purpose.BASELINES]
            for task, parts in found.items()
            if Purpose.BASELINES in parts
        }

    def _progress(self, name: str) -> Progress:
        if name != BASE_NAME:
            return self.progress
        return lambda what, done, total, note: self.progress(f"{name}: {what}", done, total, note)

    def _say(self, message: str) -> None:
        if self.world.leads:
            self.report(message)

    def _is_there(self, directory: Path, key: Mapping[str, str]) -> bool:
        path = directory / "results.json"
        return path.is_file() and not self.restart and _read(path).get("key") == _digests(key)

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


def _digests(key: Mapping[str, str]) -> dict[str, str]:
    import hashlib

    return {name: hashlib.sha256(value.encode()).hexdigest() for name, value in key.items()}
