"""The Axolotl plugin of every run: named in ``axolotl.yaml`` and loaded inside the training.

``BasePlugin`` is part of Axolotl's integrations, which are under the Axolotl Community License.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from axolotl.integrations.base import AdapterCapabilities, BasePlugin
from transformers import TrainerCallback, set_seed

from multitask.callbacks import adalora
from multitask.callbacks.checkpoints import CheckpointCallback
from multitask.callbacks.progress import ProgressCallback
from multitask.callbacks.settings import PluginArguments
from multitask.callbacks.template import freeze_template
from multitask.callbacks.tracking import prepare_wandb
from multitask.models.adapter import place_for_decomposition, require_whole
from multitask.quiet import set_library_variables
from multitask.run import Run
from multitask.runners.axolotl.kernels import use_local_kernel
from multitask.training.attempts import announce_plugin
from multitask.training.progress import show_stacks_on_signal

_PATH_KEYS = (
    "output_dir", "dataset_prepared_path", "base_model", "deepspeed", "chat_template_jinja"
)  # fmt: skip
_DATASET_KEYS = ("datasets", "test_datasets")


class MultitaskPlugin(BasePlugin):
    """Anchors a run's paths, watches its tasks, and brings the adapters that Axolotl lacks.

    Attributes:
        run: The run directory: the folder of the ``axolotl.yaml`` that was started.
    """

    run: Run
    _loaded_as: dict[str, Any]

    def register(self, cfg: Any) -> None:
        """Resolve the run's relative paths, so that training can be started from any folder.

        Args:
            cfg: Axolotl's configuration before validation; changed in place.
        """
        self.run = Run(Path(cfg["axolotl_config_path"]).resolve().parent)
        self._loaded_as = {}
        announce_plugin(self.run)
        set_library_variables(os.environ)
        # Before the validation, which asks for the kernel.
        if cfg.get("attn_implementation") == "flash_attention_2" and not find_spec("flash_attn"):
            use_local_kernel(os.environ)
        show_stacks_on_signal()
        for key in _PATH_KEYS:
            if isinstance(cfg.get(key), str):
                cfg[key] = self._anchor(
                    cfg[key], output=key in ("output_dir", "dataset_prepared_path")
                )
        for key in _DATASET_KEYS:
            for dataset in cfg.get(key) or []:
                dataset["path"] = self._anchor(dataset["path"])
        freeze_template(cfg, self.run)
        prepare_wandb(cfg, self.run, os.environ)

    def _anchor(self, value: str, *, output: bool = False) -> str:
        """A path below the run directory; a Hub id or an absolute path stays as it is."""
        path = self.run.root / value
        try:
            return str(path) if output or path.exists() else value
        except OSError:  # a chat template itself, where its file could stand: too long for a name
            return value

    def get_input_args(self) -> str:
        """Name the class that checks the section ``multitask``."""
        return f"{PluginArguments.__module__}.{PluginArguments.__name__}"

    def get_trainer_cls(self, cfg: Any) -> Any:
        """Give supervised fine-tuning a trainer that knows of tasks."""
        from multitask.callbacks.setup import trainer_class

        return trainer_class(cfg)

    def get_training_args(self, cfg: Any) -> dict[str, Any]:
        """Replace what Axolotl derives from evaluation keys."""
        from multitask.callbacks.setup import training_arguments

        return training_arguments(cfg)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Hold what learns in float32; set up evaluation and balance by task."""
        from multitask.callbacks.precision import hold_in_float32
        from multitask.callbacks.setup import watch_tasks

        self._loaded_as = hold_in_float32(cfg, trainer.model)
        watch_tasks(cfg, trainer, self.run)

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:  # noqa: ARG002
        """Add the callbacks that need no tokenised data: progress, and AdaLoRA's ranks."""
        callbacks: list[TrainerCallback] = [ProgressCallback(self.run.trainer_events)]
        callbacks.append(CheckpointCallback(self.run))
        if cfg["adapter"] == adalora.NAME:
            callbacks.append(adalora.AdaLoraCallback())
        return callbacks

    def pre_model_load(self, cfg: Any) -> None:
        """Seed before an adapter's matrices are drawn.

        Axolotl seeds afterwards, so that the same spec would start from another adapter each time.
        """
        if cfg["seed"] is not None:
            set_seed(cfg["seed"])

    def pre_lora_load(self, cfg: Any, model: Any) -> None:
        """Move weights that PiSSA is about to decompose to the GPU."""
        place_for_decomposition(cfg, model)

    def post_lora_load(self, cfg: Any, model: Any) -> None:
        """Refuse an adapter to start from, where it does not fit the model."""
        if cfg["lora_model_dir"]:
            require_whole(model, Path(cfg["lora_model_dir"]))

    def post_train(self, cfg: Any, model: Any) -> None:  # noqa: ARG002
        """Give the final model the precision it was loaded in; Axolotl calls this twice."""
        from multitask.callbacks.precision import restore

        restore(model, self._loaded_as)

    def get_adapter_capabilities(self) -> list[AdapterCapabilities]:
        """Make ``adapter: adalora`` known to Axolotl."""
        return [AdapterCapabilities(name=adalora.NAME, lora_like=True)]

    def load_adapter(
        self,
        model: Any,
        cfg: Any,
        inference: bool = False,
        config_only: bool = False,
    ) -> tuple[Any, Any] | None:
        """Load AdaLoRA where it is asked for."""
        if cfg["adapter"] != adalora.NAME or inference or config_only:
            return None
        return adalora.load_adalora(model, cfg)
