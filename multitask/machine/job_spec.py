"""A serverless job's input: a spec from outside, which may choose a training but run no code.

The worker's owner pays and has the secrets; whoever may send jobs gets neither a shell nor other
files than those of the volume. So what a spec may hold is listed here, not what it may not.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.errors import InputError, did_you_mean
from multitask.machine.protocol import check_run_id

MAX_BYTES = 256 * 1024
"""Of an input as JSON."""

_MAX_DEPTH = 16
_INPUT_KEYS = ("spec", "run_id", "max_hours")
_MAX_HOURS = 24.0 * 7
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_SOURCE_FILES = ("path", "train", "validation", "test")
_DATA_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class JobInput:
    """A checked input.

    Attributes:
        run_id: Name of the run's folder; the same input has the same by default, so that a job
            which is sent again goes on.
        spec: The spec, with paths made absolute.
        max_hours: Hours until the job is stopped; None without a limit of its own.
    """

    run_id: str
    spec: dict[str, Any]
    max_hours: float | None


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(low: float, high: float) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        return known and math.isfinite(value) and low <= value <= high

    return fits


def _count(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _word(*known: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in known


def _modules(value: Any) -> bool:
    """Names of layers; no patterns, which peft would compile."""
    names = value if isinstance(value, list) else []
    return 0 < len(names) <= 64 and all(
        isinstance(name, str) and re.fullmatch(r"[A-Za-z_][\w.]{0,127}", name, re.ASCII)
        for name in names
    )


AXOLOTL_KEYS: dict[str, Callable[[Any], bool]] = {
    "micro_batch_size": _count(1, 1024),
    "gradient_accumulation_steps": _count(1, 4096),
    "eval_batch_size": _count(1, 1024),
    "max_steps": _count(1, 10_000_000),
    "logging_steps": _count(1, 100_000),
    "dataloader_num_workers": _count(0, 64),
    "dataset_num_proc": _count(1, 64),
    "seed": _count(0, 2**32 - 1),
    "learning_rate": _number(0, 10),
    "weight_decay": _number(0, 10),
    "warmup_ratio": _number(0, 1),
    "warmup_steps": _count(0, 10_000_000),
    "cosine_min_lr_ratio": _number(0, 1),
    "cosine_constant_lr_ratio": _number(0, 1),
    "max_grad_norm": _number(0, 1e6),
    "adam_beta1": _number(0, 1),
    "adam_beta2": _number(0, 1),
    "adam_epsilon": _number(0, 1),
    "neftune_noise_alpha": _number(0, 1000),
    "lr_scheduler": _word(
        "cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"
    ),
    "optimizer": _word(
        "adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit",
        "paged_adamw_32bit", "adafactor", "sgd",
    ),
    "lora_r": _count(1, 4096),
    "lora_alpha": _number(0, 1e6),
    "lora_dropout": _number(0, 1),
    "lora_target_linear": _flag,
    "lora_target_modules": _modules,
    "lora_modules_to_save": _modules,
    "peft_use_dora": _flag,
    "peft_use_rslora": _flag,
    "loraplus_lr_ratio": _number(0, 1e6),
    "sample_packing": _flag,
    "pad_to_sequence_len": _flag,
    "train_on_inputs": _flag,
    "group_by_length": _flag,
    "gradient_checkpointing": _flag,
    "bf16": _flag,
    "fp16": _flag,
    "tf32": _flag,
    "flash_attention": _flag,
    "sdp_attention": _flag,
    "excess_length_strategy": _word("drop", "truncate"),
}  # fmt: skip
"""Keys that a job may hand to Axolotl, each with what it may be: numbers, switches, known words."""


def read_input(given: Any, volume: Path) -> JobInput:
    """Check a job's input.

    Args:
        given: The input: ``{"spec": {...}, "run_id": ..., "max_hours": ...}``.
        volume: Where local files may lie.

    Raises:
        InputError: It is too long, or holds what a job may not.
    """
    try:
        text = json.dumps(given, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"is no JSON: {error}", where="input") from None
    if len(text.encode()) > MAX_BYTES:
        raise InputError(f"has more than {MAX_BYTES // 1024} KiB", where="input")
    if not isinstance(given, dict) or not isinstance(given.get("spec"), dict):
        raise InputError("is no object with a key 'spec' that holds the spec", where="input")
    for key in given:
        if key not in _INPUT_KEYS:
            hint = did_you_mean(key, _INPUT_KEYS)
            raise InputError(f"unknown key {key[:60]!r}", where="input", fix=hint)
    _check_depth(given, 0)
    spec = checked_spec(given["spec"], volume)
    run_id = given.get("run_id", f"job-{hashlib.sha256(text.encode()).hexdigest()[:16]}")
    try:
        check_run_id(run_id if isinstance(run_id, str) else "")
    except ValueError as error:
        raise InputError(str(error), where="key 'run_id'") from None
    hours = given.get("max_hours")
    if hours is not None and not _number(0.001, _MAX_HOURS)(hours):
        raise InputError(f"is no number of hours up to {_MAX_HOURS:.0f}", where="key 'max_hours'")
    return JobInput(run_id, spec, hours)


def checked_spec(given: Mapping[str, Any], volume: Path) -> dict[str, Any]:
    """Check what may be dangerous in a spec; all else is ``load_spec``'s.

    Returns:
        The spec with absolute paths.

    Raises:
        InputError: It holds what a job may not.
    """
    from multitask.resources import config_names

    spec = dict(given)
    if spec.get("trust_remote_code", False) is not False:
        raise InputError("a job may not run a repository's code", where="key 'trust_remote_code'")
    cluster = spec.get("cluster", "")
    if cluster not in config_names("clusters"):
        fix = did_you_mean(str(cluster)[:40], config_names("clusters"))
        raise InputError("a job names a shipped cluster", where="key 'cluster'", fix=fix)
    if spec.get("data_dir") is not None:
        spec["data_dir"] = str(_inside(spec["data_dir"], volume, "data_dir"))
    spec["model"] = _model(spec.get("model"), volume)
    tasks = spec.get("tasks")
    if isinstance(tasks, list):
        spec["tasks"] = [_task(task, volume, f"tasks.{n}") for n, task in enumerate(tasks)]
    hub = spec.get("hub")
    if isinstance(hub, dict) and not _is_hub_id(hub.get("repo")):
        raise InputError("is no repository (owner/name)", where="key 'hub.repo'")
    _check_axolotl(spec.get("axolotl", {}))
    return spec


def _check_axolotl(keys: Any) -> None:
    if not isinstance(keys, dict):
        raise InputError("is a mapping", where="key 'axolotl'")
    for key, value in keys.items():
        fits = AXOLOTL_KEYS.get(key)
        if fits is None:
            raise InputError(
                f"a job may not set {str(key)[:60]!r}",
                where="key 'axolotl'",
                fix=f"{did_you_mean(str(key)[:60], AXOLOTL_KEYS)} Other keys need a pod.",
            )
        if not fits(value):
            raise InputError(f"{str(value)[:60]!r} is not allowed", where=f"key 'axolotl.{key}'")


def _task(task: Any, volume: Path, where: str) -> Any:
    if not isinstance(task, dict) or not isinstance(task.get("source"), dict):
        return task
    source = dict(task["source"])
    for key in _SOURCE_FILES:
        if source.get(key) is not None:
            path = _inside(source[key], volume, f"{where}.source.{key}")
            if path.suffix.lower() not in _DATA_FILES:
                raise InputError(
                    f"is none of {', '.join(_DATA_FILES)}", where=f"key '{where}.source.{key}'"
                )
            source[key] = str(path)
    if source.get("hub") is not None and not _is_hub_id(source["hub"]):
        raise InputError("is no repository (owner/name)", where=f"key '{where}.source.hub'")
    return {**task, "source": source}


def _model(model: Any, volume: Path) -> str:
    """A Hub id, or a folder of the volume."""
    if isinstance(model, str) and model.startswith("/"):
        return str(_inside(model, volume, "model"))
    if not _is_hub_id(model):
        raise InputError("is neither a Hub id nor a folder on the volume", where="key 'model'")
    return str(model)


def _is_hub_id(name: Any) -> bool:
    return (
        isinstance(name, str)
        and len(name) <= 96
        and ".." not in name
        and _HUB_ID.fullmatch(name) is not None
    )


def _inside(path: Any, volume: Path, key: str) -> Path:
    """A path on the volume, its links followed.

    Raises:
        InputError: It leads elsewhere.
    """
    if not isinstance(path, str) or not path or "\0" in path or path.startswith("~"):
        raise InputError("is no path on the volume", where=f"key '{key}'")
    root = volume.resolve()
    found = (root / path).resolve()
    if not found.is_relative_to(root) or found == root:
        raise InputError(
            f"{path[:100]!r} is outside the volume", where=f"key '{key}'", fix=f"use {volume}/..."
        )
    return found


def _check_depth(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InputError(f"is nested deeper than {_MAX_DEPTH}", where="input")
    if isinstance(value, dict):
        for item in value.values():
            _check_depth(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, depth + 1)
