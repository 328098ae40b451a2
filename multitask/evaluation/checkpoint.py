"""Which of a training's models is used: the last, the best on validation, or one by its step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.checkpoints import Checkpoint, list_checkpoints, step_of
from multitask.checkpoints.consolidate import SHARDS, copy_small_files, has_weights, merge_shards
from multitask.errors import InputError
from multitask.evaluation.models import trained_model
from multitask.files import read_mapping
from multitask.run import Run, staged_folder, write_atomic

LAST, BEST = "last", "best"

_MARK = ".multitask-consolidated"


@dataclass(frozen=True)
class Choice:
    """A model of a training.

    Attributes:
        name: ``last``, or the checkpoint's.
        folder: What is loaded; of a checkpoint that has to be consolidated, where that goes.
        checkpoint: The checkpoint; None for the last model.
        note: What a report says of it and of the other.
    """

    name: str
    folder: Path
    checkpoint: Checkpoint | None
    note: str


def choose(run: Run, wanted: str | None) -> Choice:
    """Choose a model; nothing is loaded or written.

    Args:
        run: The run.
        wanted: ``best``, ``last`` or a step; default: the spec's ``evaluation: {use: ...}``.

    Raises:
        InputError: The training has not ended, no checkpoint is known as the best, or the one
            wanted is not there or not complete.
    """
    wanted = wanted or _use(run)
    if wanted == LAST:
        folder = trained_model(run)
        return Choice(LAST, folder, None, _note(run, None))
    name = _best(run) if wanted == BEST else f"checkpoint-{wanted}"
    checkpoint = _complete(run, name)
    path = checkpoint.path
    is_whole = has_weights(path) and (path / "tokenizer_config.json").is_file()
    folder = path if is_whole else run.root / "consolidated" / name
    return Choice(name, folder, checkpoint, _note(run, checkpoint))


def consolidate(run: Run, choice: Choice, report: Callable[[str], None]) -> Path:
    """Make the folder of a choice where it is not there: gather shards, add what is beside them.

    Raises:
        InputError: The checkpoint holds weights that cannot be gathered here.
        MultitaskError: A shard is damaged.
    """
    checkpoint, out = choice.checkpoint, choice.folder
    if checkpoint is None or out == checkpoint.path:
        return out
    assert checkpoint.marker is not None
    key = json.dumps({name: r.fingerprint for name, r in checkpoint.marker.files.items()})
    mark = out / _MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == key:
        return out
    if not has_weights(checkpoint.path) and not (checkpoint.path / SHARDS).is_dir():
        raise InputError(
            "its weights are in partitions that are not gathered here",
            where=checkpoint.path,
            fix="gather them with the zero_to_fp32.py that DeepSpeed wrote into it, then pass the "
            "folder with --model",
        )
    shutil.rmtree(out, ignore_errors=True)
    report(f"consolidating {checkpoint.path.name} into {out}")
    with staged_folder(out) as stage:
        if has_weights(checkpoint.path):
            shutil.copytree(
                checkpoint.path, stage, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pt*")
            )
            copy_small_files(run.model, stage)
        else:
            copy_small_files(checkpoint.path, stage)
            merge_shards(checkpoint.path, run.model, stage)
        write_atomic(stage / _MARK, key)
    return out


def _use(run: Run) -> str:
    content = read_mapping(run.spec)
    return str((content.get("evaluation") or {}).get("use", LAST))


def _best(run: Run) -> str:
    path = run.model / "best.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["checkpoint"])
    except FileNotFoundError:
        raise InputError(
            "no checkpoint is known as the best: the training evaluated none",
            where=run.model,
            fix="name one by its step (`multitask checkpoints` lists them), or use the last",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "cannot be read", where=path, fix="name a checkpoint by its step"
        ) from None


def _complete(run: Run, name: str) -> Checkpoint:
    there = list_checkpoints(run.model)
    found = next((c for c in there if c.path.name == name), None)
    if found is not None and found.complete:
        return found
    steps = ", ".join(str(c.step) for c in there if c.complete)
    state = "is not there" if found is None else f"is {found.state}: {found.problems[0]}"
    raise InputError(
        f"the checkpoint {name} {state}",
        where=run.model,
        fix=f"choose one of: {steps or 'none'}; best or last" if steps else "use the last",
    )


def _note(run: Run, used: Checkpoint | None) -> str:
    """Which one is shown, and what the other had on validation while it trained."""
    scores = dict(_scores(run))
    if not scores:
        return ""
    best = (run.model / "best.json").is_file() and step_of(Path(_best(run)))
    last = max(scores)
    if used is None:
        if not best or best == last or best not in scores:
            return ""
        return (
            f"this is the last model, with a validation score of {scores[last]:.3f} at step "
            f"{last}; checkpoint-{best}, the best, had {scores[best]:.3f} (`--checkpoint best` "
            "uses it)"
        )
    own = scores.get(used.step)
    had = "no validation score" if own is None else f"a validation score of {own:.3f}"
    what = ", the best" if used.step == best else ""
    return (
        f"this is {used.path.name}{what}, with {had}; the last evaluation, at step {last}, "
        f"had {scores[last]:.3f} (`--checkpoint last` uses the last model)"
    )


def _scores(run: Run) -> Iterator[tuple[int, float]]:
    """Step and score of every evaluation in the training."""
    if not run.evaluation_log.is_file():
        return
    for line in run.evaluation_log.read_text(encoding="utf-8").splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # a last line that a crash cut short
        if "eval/score" in record:
            yield int(record["step"]), float(record["eval/score"])
