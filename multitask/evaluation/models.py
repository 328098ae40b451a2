"""Which model is evaluated: the run's last, its best or a checkpoint, its base, or any other.

Its name, what it is by content, and how it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from multitask.checkpoints import Checkpoint, fingerprint, list_checkpoints, step_of
from multitask.checkpoints.consolidate import SHARDS, copy_small_files, has_weights, merge_shards
from multitask.digests import sha256
from multitask.errors import InputError
from multitask.files import read_mapping, understood
from multitask.run import Run, staged_folder, write_atomic

if TYPE_CHECKING:
    from multitask.evaluation.requests import Settings
    from multitask.scoring.model import LoadedModel

LAST, BEST = "last", "best"

DEFAULT_NAME = "trained"
"""The evaluation of a run's own trained model."""

BASE_NAME = "base"
"""The evaluation of the untuned base model."""

DIGESTS = "multitask-digests.json"
"""Beside the weights: their digests as the training left them."""

BORROWED = "the model has no chat template; it was asked with that of the run's training"

_MARK = ".multitask-consolidated"
# Files that a model is loaded from, and others of the same folder.
_LOADED = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".py"}
_BESIDE = {DIGESTS, "calibration.json", "best.json"}
# Smaller files are hashed each time.
_LARGE = 32 * 2**20


# Names


def general_name(name: str) -> str:
    """The evaluation of the general tasks that lies within one of the run's own tasks."""
    return f"{name}/general"


def name_of(model: str | None, name: str | None) -> str:
    """The name of an evaluation, which is a folder's: what the user said, else the model's.

    Raises:
        InputError: The name is not that of one folder.
    """
    if name is None:
        return _slug(model) if model else DEFAULT_NAME
    if name != _slug(name):
        raise InputError(
            f"{name!r} cannot be the name of an evaluation", fix=f"such as --name {_slug(name)}"
        )
    return name


def _slug(model: str) -> str:
    return re.sub(r"[^\w.-]+", "-", model.strip("/")).strip("-.") or "model"


# Models of a run


class Choice(NamedTuple):
    """A model of a training: ``last``, or a checkpoint by its name.

    ``folder`` is what is loaded; of a checkpoint that has to be consolidated, where that goes.
    ``note`` is what a report says of it and of the other.
    """

    name: str
    folder: Path
    checkpoint: Checkpoint | None
    note: str


def is_trained(run: Run) -> bool:
    """Whether the run's model folder holds a model or an adapter."""
    return any((run.model / name).is_file() for name in ("config.json", "adapter_config.json"))


def base_model(run: Run) -> str:
    """The model that the run was trained from: a Hub id or a folder."""
    with understood(run.spec):
        name = str(read_mapping(run.spec)["model"])
    # As Axolotl reads it, which is started in the run directory.
    inside = run.root / name
    return str(inside) if inside.is_dir() else name


def same_model(name: str, folder: Path) -> bool:
    """Whether a model's name is this folder."""
    return Path(name).is_dir() and folder.is_dir() and Path(name).samefile(folder)


def choose(run: Run, wanted: str | None) -> Choice:
    """Choose a model of the training; nothing is loaded or written.

    ``best``, ``last`` or a step is wanted; default: the spec's ``evaluation: {use: ...}``.

    Raises:
        InputError: The training has not ended, no checkpoint is known as the best, or the one
            wanted is not there or not complete.
    """
    if wanted is None:
        wanted = str((read_mapping(run.spec).get("evaluation") or {}).get("use", LAST))
    if wanted == LAST:
        if not is_trained(run):
            raise InputError(
                "the run has no trained model",
                where=run.model,
                fix=f"run `multitask train {run.root}` first, or pass --model",
            )
        return Choice(LAST, run.model, None, _note(run, None))
    name = _best(run) if wanted == BEST else f"checkpoint-{wanted}"
    checkpoint = _complete(run, name)
    path = checkpoint.path
    is_whole = has_weights(path) and (path / "tokenizer_config.json").is_file()
    folder = path if is_whole else run.root / "consolidated" / name
    return Choice(name, folder, checkpoint, _note(run, checkpoint))


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
    scores = _scores(run)
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


def _scores(run: Run) -> dict[int, float]:
    """The score of every evaluation in the training, by its step."""
    found: dict[int, float] = {}
    if not run.evaluation_log.is_file():
        return found
    for line in run.evaluation_log.read_text(encoding="utf-8").splitlines():
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # a last line that a crash cut short
        if "eval/score" in record:
            found[int(record["step"])] = float(record["eval/score"])
    return found


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


def load(
    run: Run, name: str, settings: Settings, report: Callable[[str], None] = lambda _: None
) -> tuple[LoadedModel, list[str]]:
    """Load a model; one without a chat template gets that of the run's training.

    A base model that was never tuned to answer has none, and is to be asked as the tuned one is.

    Returns:
        The model, and what a report should say of it.
    """
    from multitask.scoring.model import load_model

    loaded = load_model(
        name,
        dtype=settings.dtype,
        quantisation=settings.quantisation,
        report=lambda words: report(f"loading {name}: {words}"),
    )
    if loaded.tokenizer.chat_template or not is_trained(run):
        return loaded, []
    from transformers import AutoTokenizer

    tokenizer = loaded.tokenizer
    tokenizer.chat_template = AutoTokenizer.from_pretrained(run.model).chat_template
    return replace(loaded, tokenizer=tokenizer), [BORROWED]


# What a model is, by content: an evaluation belongs to its weights, wherever the run is.


def model_key(name: str) -> str:
    """A digest that changes with a model's weights, configuration or tokenizer, and with no place.

    Of a folder: of the contents of the files that a model is loaded from. Of an adapter, its
    base's as well, as :func:`store_digests` noted it where the base is not on this machine. Of a
    Hub id: the id and the commit in the cache.
    """
    folder = Path(name)
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(f"{name}@{_cached_commit(name)}".encode())
        return digest.hexdigest()
    stored = _json(folder / DIGESTS)
    for path in _loaded(folder):
        digest.update(f"{path.name}:{_content(path, stored)}\n".encode())
    base = _base(folder)
    if base is not None:
        known = stored.get("base", {})
        is_here = Path(base).is_dir() or bool(_cached_commit(base))
        noted = known.get("key") if known.get("name") == base and not is_here else None
        digest.update((noted or model_key(base)).encode())
    return digest.hexdigest()


def store_digests(folder: Path) -> None:
    """Note the contents of a trained model's large files, and its base's key, beside them.

    Raises:
        OSError: A file cannot be read, or the note not written.
    """
    files = {
        path.name: asdict(fingerprint(path)) | {"sha256": sha256(path)}
        for path in _loaded(folder)
        if path.stat().st_size > _LARGE
    }
    content: dict[str, Any] = {"files": files}
    base = _base(folder)
    if base is not None:
        content["base"] = {"name": base, "key": model_key(base)}
    write_atomic(folder / DIGESTS, json.dumps(content, indent=1) + "\n")


def _loaded(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in _LOADED and path.name not in _BESIDE and path.is_file()
    ]


def _content(path: Path, stored: dict[str, Any]) -> str:
    """SHA-256 of a file; the noted one of a large file whose size and samples are as noted."""
    noted = stored.get("files", {}).get(path.name)
    if noted is not None:
        found = fingerprint(path)
        if (found.size, found.fingerprint) == (noted["size"], noted["fingerprint"]):
            return str(noted["sha256"])
    return sha256(path)


def _base(folder: Path) -> str | None:
    """What an adapter is on; None where the folder holds none."""
    name = _json(folder / "adapter_config.json").get("base_model_name_or_path")
    return None if name is None else str(name)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _cached_commit(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return ""
    return Path(path).parent.name if isinstance(path, str) else ""
