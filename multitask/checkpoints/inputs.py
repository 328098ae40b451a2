"""What a training's course depends on, and what of it changed since a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multitask.files import read_bytes, read_json, read_mapping, understood
from multitask.run import Run

# Keys of axolotl.yaml that change what is recorded and how fast, not how the model is trained.
# Whole groups only where no key of the group trains: `use_pose`, `use_kernels` and
# `dataloader_drop_last` do, and so does a plugin.
_HARMLESS = (
    "save_", "logging_", "eval_", "evals_", "wandb_", "mlflow_", "comet_", "trackio_", "hub_",
)  # fmt: skip
_HARMLESS_KEYS = frozenset({
    "use_wandb", "use_mlflow", "use_comet", "use_tensorboard", "use_trackio",
    "dataset_prepared_path", "dataset_processes", "dataset_num_proc", "output_dir",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
})  # fmt: skip
_SHOWN = 5


@dataclass(frozen=True)
class Inputs:
    """The inputs of a training.

    Attributes:
        world_size: Processes that train together.
        spec: SHA-256 of ``spec.yaml``.
        data: SHA-256 of each file of the training data, as the manifest states it.
        config: ``axolotl.yaml``, without what only says how to log, evaluate and save.
    """

    world_size: int
    spec: str
    data: Mapping[str, str]
    config: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run, world_size: int) -> Inputs:
        """Read a run's inputs.

        Raises:
            InputError: A file of the run cannot be read.
        """
        config, manifest = read_mapping(run.axolotl), read_json(run.manifest)
        with understood(run.manifest):
            data = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        spec = hashlib.sha256(read_bytes(run.spec)).hexdigest()
        kept = {
            key: config[key]
            for key in sorted(config)
            if key not in _HARMLESS_KEYS and not key.startswith(_HARMLESS)
        }
        # Of our own section, how tasks are weighed matters; how they are evaluated does not.
        section = kept.pop("multitask", None) or {}
        kept |= {f"multitask.{key}": section[key] for key in section if key != "evaluation"}
        # Through JSON, so that it equals what a marker gives back.
        return cls(world_size, spec, data, json.loads(json.dumps(kept, default=str)))

    def changes_to(self, now: Inputs) -> tuple[str, ...]:
        """Say what is different now, one sentence each; empty when training goes on the same."""
        changes = []
        if self.world_size != now.world_size:
            changes.append(
                f"world size: {self.world_size} processes then, {now.world_size} now; "
                "rows would be dealt and random numbers drawn differently"
            )
        keys = sorted(
            key
            for key in {*self.config, *now.config}
            if self.config.get(key) != now.config.get(key)
        )
        changes += [
            f"{key}: {_short(self.config.get(key))} then, {_short(now.config.get(key))} now"
            for key in keys[:_SHOWN]
        ]
        if len(keys) > _SHOWN:
            changes.append(f"{len(keys) - _SHOWN} more keys of axolotl.yaml")
        if self.data.get("train.jsonl") != now.data.get("train.jsonl"):
            changes.append("data/train.jsonl: other rows than then")
        if self.spec != now.spec and not changes:
            changes.append("spec.yaml: edited since, though axolotl.yaml trains the same")
        return tuple(changes)


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
