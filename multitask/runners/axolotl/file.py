"""Axolotl's configuration for a run.

Paths are relative to the run directory, so that it can be copied to a cluster; the plugin anchors
them there when Axolotl loads the file (:mod:`multitask.plugin`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from multitask.planning.setup import Setup
from multitask.runners.axolotl.hardware import Section, cpu_sections, gpu_sections
from multitask.runners.axolotl.method import method_keys
from multitask.scoring.chat import TEMPLATE_FILE
from multitask.training_spec import PluginSettings

PLUGIN = "multitask.plugin.MultitaskPlugin"
LIGER_PLUGIN = "axolotl.integrations.liger.LigerPlugin"

_HEADER = """\
# Written by multitask for the run beside it; started unchanged by
#   accelerate launch --config_file accelerate.yaml -m axolotl.cli.train axolotl.yaml
# Paths are relative to this file's folder (the plugin resolves them).
"""


# With both, Axolotl refuses the file, or takes ours in silence: find_all_linear_names adds every
# layer to those that lora_target_modules names (loaders/adapter.py).
_DISPLACES = {
    "lora_target_modules": ("lora_target_linear",),
    "lora_target_parameters": ("lora_target_linear",),
    "warmup_steps": ("warmup_ratio",),
    "batch_size": ("gradient_accumulation_steps",),
    "saves_per_epoch": ("save_steps",),
}


class AxolotlFile(NamedTuple):
    """Axolotl's configuration, in sections that say why.

    Attributes:
        sections: Our keys.
        own: The user's keys, which win.
    """

    sections: tuple[Section, ...]
    own: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """All keys with the values that count."""
        merged: dict[str, Any] = {}
        for section in self.sections:
            merged |= section.keys
        gone = self._displaced
        return {key: value for key, value in merged.items() if key not in gone} | self.own

    @property
    def _displaced(self) -> set[str]:
        """Keys of ours that would contradict one of the user's."""
        return {
            key
            for own, keys in _DISPLACES.items()
            if self.own.get(own) is not None
            for key in keys
            if key not in self.own
        }

    @property
    def replaced(self) -> tuple[str, ...]:
        """Keys of ours that the user's win over, with another value."""
        ours = {key: value for section in self.sections for key, value in section.keys.items()}
        return tuple(key for key in self.own if key in ours and ours[key] != self.own[key])

    def to_yaml(self) -> str:
        """The file."""
        parts = [_HEADER]
        gone = self._displaced | self.own.keys()
        for section in self.sections:
            keys = {key: value for key, value in section.keys.items() if key not in gone}
            if keys:
                parts.append(_comment(section.why) + _dump(keys))
        if self.own:
            why = "From the spec's `axolotl`; these win."
            if self.replaced:
                why += f" Our own values were replaced for: {', '.join(self.replaced)}."
            parts.append(_comment(why) + _dump(self.own))
        return "\n".join(parts)


def axolotl_file(setup: Setup) -> AxolotlFile:
    """Put a training setup into Axolotl's words."""
    hardware = cpu_sections(setup) if setup.cluster.on_cpu else gpu_sections(setup)
    liger = any(key.startswith("liger_") for section in hardware for key in section.keys)
    sections = [
        _model(setup, plugins=[PLUGIN, LIGER_PLUGIN] if liger else [PLUGIN]),
        Section(
            "Data: the materialised mixture, in chat messages; the answer alone is trained on.",
            {
                "datasets": [_dataset("data/train.jsonl")],
                "test_datasets": [_dataset("data/validation.jsonl")],
                "dataset_prepared_path": "prepared",
                "output_dir": "model",
                "sequence_len": setup.sequence.tokens,
            },
        ),
        _method(setup),
        _batch(setup),
        *hardware,
        Section(
            f"Checkpoints: {setup.save.reason}. Resuming is decided by `multitask train`, which "
            "checks that a checkpoint is complete; Axolotl's own choice takes the highest number.",
            {
                "save_strategy": "steps",
                "save_steps": _whole(setup.save.steps),
                "save_total_limit": setup.spec.checkpoint.keep,
            },
        ),
        _plugin(setup),
        *_tracking(setup),
    ]
    return AxolotlFile(tuple(sections), dict(setup.spec.engine_keys))


def _model(setup: Setup, plugins: Sequence[str]) -> Section:
    template = setup.model.chat_template
    if setup.alpaca:
        template = "alpaca"
    elif template == "alpaca":  # but the spec asks for chat
        template = "tokenizer_default"
    keys: dict[str, Any] = {
        "base_model": setup.spec.model,
        "plugins": list(plugins),
        "chat_template": template,
    }
    if template == "jinja":
        keys["chat_template_jinja"] = TEMPLATE_FILE
    if setup.model.eot_tokens and template == setup.model.chat_template:
        keys["eot_tokens"] = list(setup.model.eot_tokens)
    if setup.model.special_tokens:
        keys["special_tokens"] = dict(setup.model.special_tokens)
    if setup.spec.trust_remote_code:
        keys["trust_remote_code"] = True
    return Section("The model, and how a conversation becomes text.", keys)


def _method(setup: Setup) -> Section:
    spec, method = setup.spec, setup.method
    keys = method_keys(method)
    targets = setup.model.lora_target_modules
    if method.is_adapter and targets is not None:
        keys.pop("lora_target_linear", None)
        keys["lora_target_modules"] = targets if isinstance(targets, str) else list(targets)
    if not method.is_adapter and setup.model.unfrozen_parameters:
        keys["unfrozen_parameters"] = list(setup.model.unfrozen_parameters)
    keys |= {
        "learning_rate": spec.learning_rate or method.learning_rate,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": spec.seed,
    }
    return Section(f"Method: {method.description}. Cosine decay after a short warm-up.", keys)


def _batch(setup: Setup) -> Section:
    batch, world = setup.batch, setup.cluster.world_size
    return Section(
        f"Batch: {world} process{'es' * (world > 1)} x {batch.micro} x {batch.accumulation} = "
        f"{batch.global_size} sequences per optimizer step.",
        {
            "num_epochs": setup.spec.epochs,
            "micro_batch_size": batch.micro,
            "gradient_accumulation_steps": batch.accumulation,
            "logging_steps": 10,
        },
    )


def _dataset(path: str) -> dict[str, Any]:
    return {
        "path": path,
        "ds_type": "json",
        "split": "train",  # a JSON file's only split, whatever it is used for
        "type": "chat_template",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }


def _plugin(setup: Setup) -> Section:
    settings = PluginSettings(
        evaluation=setup.spec.evaluation, balance=setup.spec.balance, seed=setup.spec.seed
    )
    why = (
        "What multitask's plugin does inside the training. It evaluates each task at every save, "
        "so none of Axolotl's own evaluation keys is set: they would drop the last rows of a task "
        "where rows are packed, and force an evaluation at each start."
    )
    return Section(why, {"multitask": settings.model_dump(mode="json")})


def _tracking(setup: Setup) -> list[Section]:
    tracking, name = setup.spec.tracking, setup.spec.name
    sections = []

    def add(why: str, **keys: Any) -> None:
        given = {key: value for key, value in keys.items() if value is not None}
        sections.append(Section(why, given))

    if (wandb := tracking.wandb) is not None:
        add(
            "Weights & Biases; offline where there is no login (`wandb sync` uploads later).",
            wandb_project=wandb.project,
            wandb_name=wandb.name or name,
            wandb_entity=wandb.entity,
        )
    if tracking.tensorboard:
        add("TensorBoard, in logs/tensorboard.", use_tensorboard=True)
    if (mlflow := tracking.mlflow) is not None:
        add(
            "MLflow; in logs/mlflow where neither a URI is here nor in MLFLOW_TRACKING_URI.",
            use_mlflow=True,
            mlflow_experiment_name=mlflow.experiment,
            mlflow_tracking_uri=mlflow.uri,
            mlflow_run_name=mlflow.name or name,
        )
    if (trackio := tracking.trackio) is not None:
        add(
            "Trackio, in logs/trackio.",
            use_trackio=True,
            trackio_project_name=trackio.project,
            trackio_run_name=trackio.name or name,
            trackio_space_id=trackio.space,
        )
    return sections


def _whole(steps: float) -> float | int:
    """A whole number of steps as an int; below 1 it is a share of the run and stays a float."""
    return steps if steps < 1 else round(steps)


def _comment(text: str) -> str:
    import textwrap

    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 98))


def _dump(keys: dict[str, Any]) -> str:
    return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
