"""DeepSpeed's configuration: ``RUN/deepspeed.json``, which the engine's file names.

Values that the trainer knows are ``"auto"``: transformers fills them from its training
arguments and refuses a file that contradicts them (``HfTrainerDeepSpeedConfig``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from multitask.checks import Check
from multitask.errors import InputError, MultitaskError, did_you_mean
from multitask.planning.setup import Setup

STAGES = (1, 2, 3)

INSTALL = "pip install 'multitask[train,deepspeed]'"


def deepspeed_config(stage: int, *, offload: bool = False) -> dict[str, Any]:
    """A ZeRO configuration (Rajbhandari et al., 2020, "ZeRO: Memory Optimizations").

    Args:
        stage: What is partitioned over the GPUs: 1 the optimizer's state, 2 also gradients, 3
            also parameters.
        offload: Keep the optimizer's state, and in stage 3 the parameters, in the memory of the
            machine. It needs a C++ compiler on the nodes: DeepSpeed builds its CPU Adam there.

    Raises:
        InputError: There is no such stage.
    """
    if stage not in STAGES:
        raise InputError(f"there is no ZeRO stage {stage!r}", fix="use 1, 2 or 3")
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    pinned = {"device": "cpu", "pin_memory": True}
    if offload:
        zero["offload_optimizer"] = pinned
    if stage == 3:
        if offload:
            zero["offload_param"] = pinned
        # From the model's hidden size, once it is loaded.
        zero |= {
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            # Without it the trained model at the end is empty tensors (accelerate asks for it
            # in get_state_dict).
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
    }


def deepspeed_files(setup: Setup) -> dict[str, str]:
    """``deepspeed.json`` of a run that DeepSpeed shards; nothing for another."""
    stage = setup.topology.sharding.deepspeed_stage
    if stage is None:
        return {}
    content = deepspeed_config(stage, offload=setup.topology.cpu_offload)
    return {"deepspeed.json": json.dumps(content, indent=2) + "\n"}


def deepspeed_installed() -> bool:
    """Whether DeepSpeed is there to be asked."""
    return find_spec("deepspeed") is not None and find_spec("transformers") is not None


def require_deepspeed(config: Mapping[str, Any]) -> None:
    """Check that DeepSpeed is there where a configuration needs it.

    Args:
        config: The content of the engine's file.

    Raises:
        InputError: It is not installed.
    """
    if config.get("deepspeed") and not deepspeed_installed():
        raise InputError(
            "the run shards with DeepSpeed, which is not installed",
            where="key 'deepspeed' of the engine's file",
            fix=f"{INSTALL}, or build the run with `sharding: fsdp`",
        )


def check_deepspeed(path: Path, values: Mapping[str, Any], *, world_size: int) -> list[Check]:
    """Read a file as the training will: filled by transformers, judged by DeepSpeed.

    Runs in a process of its own without GPU and without building DeepSpeed's kernels.

    Args:
        path: ``deepspeed.json``.
        values: Training arguments by transformers' names, which fill ``"auto"``.
        world_size: GPUs that train together.

    Returns:
        What DeepSpeed or transformers refuses: unknown keys of ZeRO, wrong types, values that
        contradict the trainer's, a batch that does not multiply out.

    Raises:
        MultitaskError: DeepSpeed cannot be imported.
    """
    question: dict[str, Any] = {name: values.get(name) for name in _FILLED_FROM}
    (problems,) = _ask([question | {"path": str(path), "world_size": world_size}])
    return [
        Check(found["what"], f"{path.name}: {found['where']}".removesuffix(": "), found["fix"])
        for found in problems
    ]


_FILLED_FROM = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "bf16",
    "fp16",
    "learning_rate",
    "weight_decay",
)


def _ask(questions: list[dict[str, Any]]) -> list[list[dict[str, str]]]:
    """Start a process that checks files, and take what it found in each."""
    environment = dict(os.environ)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        environment.pop(name, None)
    environment |= {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "multitask.runners.deepspeed"],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise MultitaskError(f"DeepSpeed's configuration class did not answer:\n{tail}")
    answers: list[list[dict[str, str]]] = json.loads(done.stdout.splitlines()[-1])
    return answers


# A model's hidden size when none is known; transformers needs one to fill the bucket sizes, and
# any one shows whether the filled file is accepted.
_HIDDEN_SIZE = 4096


def _training_arguments(values: dict[str, Any]) -> SimpleNamespace:
    """The trainer's arguments that transformers fills a file from, under its names."""
    return SimpleNamespace(
        world_size=int(values["world_size"]),
        per_device_train_batch_size=int(values["per_device_train_batch_size"] or 1),
        gradient_accumulation_steps=int(values["gradient_accumulation_steps"] or 1),
        max_grad_norm=1.0 if values["max_grad_norm"] is None else values["max_grad_norm"],
        learning_rate=float(values["learning_rate"] or 5e-5),
        weight_decay=float(values["weight_decay"] or 0.0),
        bf16=values["bf16"] is True,
        fp16=values["fp16"] is True,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        bf16_full_eval=False,
        fp16_full_eval=False,
        save_on_each_node=False,
        get_warmup_steps=lambda _: 0,
    )


def _check_here(values: dict[str, Any]) -> list[dict[str, str]]:
    """What the child process does."""
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from pydantic import ValidationError
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    world = int(values["world_size"])
    arguments = _training_arguments(values)
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=_HIDDEN_SIZE))
    try:
        content = json.loads(Path(values["path"]).read_text(encoding="utf-8"))
        filled = HfTrainerDeepSpeedConfig(content)
        filled.trainer_config_process(arguments)
        filled.trainer_config_finalize(arguments, model, 1000)
    except ValueError as error:
        return [_problem(str(error), fix='give "auto" there, and the trainer fills it')]
    left = _autos(filled.config)
    if left:
        return [_problem("nothing fills this 'auto'", key, "give a value") for key in left]
    # One process stands for all: DeepSpeed multiplies the batch out with its own world size.
    whole = filled.config["train_batch_size"]
    if whole % world:
        return [_problem(f"{whole} rows do not divide over {world} GPUs", "train_batch_size")]
    filled.config["train_batch_size"] = whole // world
    watched = _Watched(filled.config)
    try:
        DeepSpeedConfig(watched)
    except ValidationError as error:
        section = "zero_optimization" if "Zero" in error.title else error.title
        return [
            _problem(e["msg"], ".".join([section, *map(str, e["loc"])]), "remove or correct it")
            for e in error.errors(include_url=False)
        ]
    except (AssertionError, DeepSpeedConfigError, TypeError, ValueError, KeyError) as error:
        return [_problem(str(error) or type(error).__name__)]
    # DeepSpeed drops a top-level key that it does not know; it never asks for it either.
    return [_unasked(key, watched.asked) for key in content if key not in watched.asked]


def _problem(what: str, where: str = "", fix: str = "correct the file") -> dict[str, str]:
    return {"what": " ".join(what.split()), "where": where, "fix": fix}


def _unasked(key: str, asked: set[str]) -> dict[str, str]:
    hint = did_you_mean(key, asked)
    fix = hint if hint.startswith("did you mean") else "remove it"
    return _problem("DeepSpeed does not know this key", key, fix)


def _autos(section: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in section.items():
        if value == "auto":
            found.append(prefix + key)
        elif isinstance(value, dict):
            found += _autos(value, f"{prefix}{key}.")
    return found


class _Watched(dict[str, Any]):
    """A mapping that remembers which of its keys were asked for."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


if __name__ == "__main__":
    problems_per_file = [_check_here(question) for question in json.load(sys.stdin)]
    print("\n" + json.dumps(problems_per_file))  # noqa: T201
