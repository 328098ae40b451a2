"""Which models an evaluation loads: the run's trained one, its base, or any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from multitask.errors import InputError
from multitask.evaluation.settings import Settings
from multitask.files import read_mapping, understood
from multitask.run import Run
from multitask.scoring.model import LoadedModel, load_model


def trained_model(run: Run) -> Path:
    """The folder of the run's trained model or adapter.

    Raises:
        InputError: Training has not ended yet.
    """
    if is_trained(run):
        return run.model
    raise InputError(
        "the run has no trained model",
        where=run.model,
        fix=f"run `multitask train {run.root}` first, or pass --model",
    )


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


BORROWED = "the model has no chat template; it was asked with that of the run's training"


def load(
    run: Run, name: str, settings: Settings, report: Callable[[str], None] = lambda _: None
) -> tuple[LoadedModel, list[str]]:
    """Load a model; one without a chat template gets that of the run's training.

    A base model that was never tuned to answer has none, and is to be asked as the tuned one is.

    Returns:
        The model, and what a report should say of it.
    """
    loaded = load_model(
        name,
        dtype=settings.dtype,
        quantisation=settings.quantisation,
        report=lambda words: report(f"loading {name}: {words}"),
    )
    if loaded.tokenizer.chat_template or not is_trained(run):
        return loaded, []
    from transformers import AutoTokenizer

    trained = AutoTokenizer.from_pretrained(run.model)
    tokenizer = loaded.tokenizer
    tokenizer.chat_template = trained.chat_template
    return replace(loaded, tokenizer=tokenizer), [BORROWED]
