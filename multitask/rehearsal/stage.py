"""The rehearsal's own run directory, made from the run that is rehearsed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from multitask.data.readers import iterate_rows
from multitask.errors import InputError
from multitask.files import read_mapping
from multitask.models import ModelInfo, model_info
from multitask.rehearsal.adapt import Change, Sizes, adapted, adapted_deepspeed
from multitask.rehearsal.shrink import shrunk
from multitask.run import Run
from multitask.scoring.chat import TEMPLATE_FILE
from multitask.spec import load_spec

MODEL = "base_model"

# Rows that are enough for some steps of many ranks and some questions of every task.
_ROWS = {"train": 960, "validation": 96, "test": 400}
_VOCABULARY = 2000


def stage_rehearsal(run: Run, root: Path, sizes: Sizes) -> list[Change]:
    """Write a rehearsal's run directory: few rows, a small model, the adapted configuration.

    Args:
        run: The run as it was built for its cluster.
        root: The rehearsal's run directory; must not exist.
        sizes: How long and how small.

    Returns:
        What differs from the cluster's run.

    Raises:
        InputError: The run is not built, or nothing is known of its model's architecture.
    """
    for path in (run.axolotl, run.split("train")):
        run.require(path, f"multitask build-config {run.spec} --out {run.root}")
    spec = load_spec(run.spec)
    config = read_mapping(run.axolotl)
    info = model_info(str(config.get("base_model", spec.model)), run.root)
    small = Run(root)
    small.data.mkdir(parents=True)
    shutil.copy(run.spec, small.spec)
    shutil.copy(run.manifest, small.manifest)
    tokenizer, own = _tokenizer(run, str(config.get("base_model", spec.model)))
    changes = [_rows(run, small), _model(small, info, config, tokenizer, own=own)]
    if not own:
        why = "the tokenizer is another one"
        foreign = {"special_tokens", "eot_tokens", "chat_template_jinja"} & config.keys()
        changes += [Change(key, config.pop(key), None, why) for key in sorted(foreign)]
        if config.get("chat_template") == "jinja":
            changes.append(Change("chat_template", "jinja", "tokenizer_default", why))
            config["chat_template"] = "tokenizer_default"
    if (run.root / TEMPLATE_FILE).is_file():
        shutil.copy(run.root / TEMPLATE_FILE, small.root / TEMPLATE_FILE)
    attention = info.attention_on(flash=False)
    config, more = adapted(config, model=MODEL, sizes=sizes, attention=attention)
    small.axolotl.write_text(
        "# The rehearsal of the run above it: see changes in rehearsal.json.\n"
        + yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        encoding="utf-8",
    )
    shutil.copy(run.accelerate, small.accelerate)
    if run.deepspeed.is_file():
        engine, its = adapted_deepspeed(json.loads(run.deepspeed.read_text(encoding="utf-8")))
        small.deepspeed.write_text(json.dumps(engine, indent=2) + "\n", encoding="utf-8")
        more += its
    return changes + more


def _rows(run: Run, small: Run) -> Change:
    """Copy the first rows of each split; training rows are shuffled over tasks already."""
    for split, most in _ROWS.items():
        if not run.split(split).is_file():
            continue
        lines = (
            _first(run.split(split), most) if split == "train" else _even(run.split(split), most)
        )
        small.split(split).write_bytes(b"".join(lines))
    return Change(
        "data",
        "all rows",
        f"up to {_ROWS['train']} rows of train, {_ROWS['validation']} of validation",
        "a rehearsal is short",
        "rows that were left out",
    )


def _first(path: Path, most: int) -> list[bytes]:
    with path.open("rb") as file:
        return list(islice(file, most))


def _even(path: Path, most: int) -> list[bytes]:
    """As many lines of each task, in order."""
    tasks = [row["task"] for row in iterate_rows(path)]
    names = list(dict.fromkeys(tasks))
    left = dict.fromkeys(names, most // max(1, len(names)))
    kept = []
    with path.open("rb") as file:
        for task, line in zip(tasks, file, strict=True):
            if left[task] > 0:
                left[task] -= 1
                kept.append(line)
    return kept


def _model(
    small: Run, info: ModelInfo, config: dict[str, Any], tokenizer: Any, *, own: bool
) -> Change:
    name = config.get("base_model")
    if info.config is None or "model_type" not in info.config:
        raise InputError(
            f"nothing is known of the architecture of {name}, so it cannot be shrunk",
            where="key 'model'",
            fix="download its config.json once (`hf download MODEL config.json`), or give a folder",
        )
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    keys = shrunk(info.config, vocab_size=len(tokenizer))
    for token in ("eos", "bos", "pad"):
        keys[f"{token}_token_id"] = getattr(tokenizer, f"{token}_token_id")
    model_type = keys.pop("model_type")
    set_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **keys))
    target = small.root / MODEL
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    total = sum(parameter.numel() for parameter in model.parameters())
    before = "an unknown number of" if info.shape is None else f"{info.shape.parameters:,}"
    whose = "its own tokenizer" if own else "a tokenizer trained on the rows"
    return Change(
        "model",
        f"{name}: {before} parameters",
        f"{type(model).__name__}: {total:,} random parameters, {whose}",
        "fewer and narrower layers of the same classes"
        + ("" if own else "; its own tokenizer is not on this machine"),
        "the quality of the model; numerical behaviour at full width"
        + ("" if own else "; its own tokens and chat template"),
    )


def _tokenizer(run: Run, name: str) -> tuple[Any, bool]:
    """The model's own tokenizer where it is on this machine, else one trained on the rows."""
    from transformers import AutoTokenizer

    folder = run.root / name
    try:
        source = str(folder) if folder.is_dir() else name
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        from multitask.toy import train_tokenizer

        return train_tokenizer(_texts(run), vocabulary=_VOCABULARY), False
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, True


def _texts(run: Run) -> Iterator[str]:
    for row in islice(iterate_rows(run.split("train")), 2000):
        for message in row["messages"]:
            yield message["content"]
