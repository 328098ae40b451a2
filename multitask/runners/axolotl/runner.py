"""Axolotl as a training engine; what costs an import stands in the modules beside this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multitask.checks import Check, refuse
from multitask.errors import InputError
from multitask.files import read_mapping
from multitask.models import ModelInfo
from multitask.planning.setup import Setup
from multitask.run import Run
from multitask.runners.axolotl.file import PLUGIN, axolotl_file
from multitask.runners.axolotl.method import PEFT
from multitask.runners.base import Runner, Validate
from multitask.runners.deepspeed import check_deepspeed, deepspeed_files, deepspeed_installed
from multitask.runners.launch import accelerate_yaml


class AxolotlRunner:
    """Trains causal language models."""

    name = "Axolotl"
    file = "axolotl.yaml"
    module = "axolotl.cli.train"
    packages: Sequence[str] = ("axolotl",)
    variables: Mapping[str, str] = {"AXOLOTL_DO_NOT_TRACK": "1"}

    def trains(self, model: ModelInfo) -> bool:
        """All but encoder-decoders, whose encoder it would show the answer."""
        return not model.encoder_decoder

    def refuse(self, setup: Setup) -> None:
        """Refuse methods that neither Axolotl nor our plugin has."""
        if setup.method.peft not in (None, *PEFT):
            raise InputError(
                f"Axolotl does not train '{setup.method.peft}' (method '{setup.method.name}')",
                where="key 'method'",
                fix="use lora, qlora or full",
            )

    def config(self, setup: Setup) -> dict[str, Any]:
        """The content of axolotl.yaml."""
        return axolotl_file(setup).config

    def replaced(self, setup: Setup) -> tuple[str, ...]:
        """Keys of ours that the spec's ``axolotl`` replaces."""
        return axolotl_file(setup).replaced

    def files(self, setup: Setup) -> dict[str, str]:
        """FSDP is configured in axolotl.yaml, so accelerate only starts processes."""
        return {
            self.file: axolotl_file(setup).to_yaml(),
            "accelerate.yaml": accelerate_yaml(setup.cluster),
            **deepspeed_files(setup),
        }

    def check(self, setup: Setup, config: Mapping[str, Any] | None = None) -> list[Check]:
        """Axolotl's schema, and the traps that its validator does not see."""
        from multitask.runners.axolotl.checks import check_config, plan_of

        return check_config(plan_of(setup, None if config is None else dict(config)))

    def check_template(
        self, config: Mapping[str, Any], tokenizer: Any, root: Path
    ) -> Iterable[Check]:
        """What ends an answer is trained as scoring counts it."""
        from multitask.runners.axolotl.keys import check_template

        return check_template(config, tokenizer, root)

    def installed(self) -> bool:
        """Whether the `train` extra is there."""
        from multitask.runners.axolotl.validate import axolotl_installed

        return axolotl_installed()

    @contextmanager
    def validator(self) -> Iterator[Validate]:
        """Axolotl's validator, accelerate's loader and DeepSpeed's configuration class."""
        from multitask.runners.axolotl.validate import AxolotlValidator

        with AxolotlValidator() as validator:

            def validate(run: Run, setup: Setup) -> None:
                validator.validate(run.root / self.file, setup.cluster)
                validator.validate_accelerate(run.accelerate)
                if run.deepspeed.is_file() and deepspeed_installed():
                    config = self.config(setup)
                    values = config | {"per_device_train_batch_size": config["micro_batch_size"]}
                    world = setup.cluster.world_size
                    refuse(check_deepspeed(run.deepspeed, values, world_size=world))

            yield validate

    def require(self, run: Run) -> dict[str, Any]:
        """Axolotl is there, and its file names our plugin; without it Axolotl trains on."""
        if not self.installed():
            raise InputError(
                "Axolotl is not installed", fix="pip install 'multitask[train]' (see the README)"
            )
        config = read_mapping(run.root / self.file)
        if PLUGIN not in (config.get("plugins") or []):
            raise InputError(
                "Axolotl would train without multitask's plugin, so nothing of ours would be in it",
                where=f"{run.root / self.file}: key 'plugins'",
                fix=f"add {PLUGIN} to it",
            )
        return config

    def resume(self, checkpoint: Path) -> list[str]:
        """An absolute path: its own choice takes the highest number, complete or not."""
        return [f"--resume_from_checkpoint={checkpoint.resolve()}"]


RUNNER: Runner = AxolotlRunner()
