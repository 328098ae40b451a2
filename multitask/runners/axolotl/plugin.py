"""What every run's plugin does inside Axolotl's training.

``BasePlugin`` is part of Axolotl's integrations, which are under the Axolotl Community License.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from axolotl.integrations.base import AdapterCapabilities, BasePlugin
from pydantic import BaseModel
from transformers import TrainerCallback, set_seed

from multitask.callbacks.checkpoints import CheckpointCallback
from multitask.callbacks.progress import ProgressCallback
from multitask.callbacks.tracking import prepare_trackers
from multitask.models.adapter import place_for_decomposition, require_whole
from multitask.quiet import set_library_variables
from multitask.run import Run, write_atomic
from multitask.runners.axolotl import adalora
from multitask.runners.axolotl.kernels import use_local_kernel
from multitask.scoring.chat import TEMPLATE_FILE, freeze_date
from multitask.training.attempts import announce_plugin
from multitask.training.progress import show_stacks_on_signal
from multitask.training_spec import PluginSettings

# Paths of what Axolotl reads, and of what it writes.
_READ = ("base_model", "deepspeed", "chat_template_jinja")
_WRITTEN = ("output_dir", "dataset_prepared_path")


class PluginArguments(BaseModel):
    """What the plugin adds to Axolotl's schema: the section ``multitask``."""

    multitask: PluginSettings = PluginSettings()


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
        for key in (*_READ, *_WRITTEN):
            if isinstance(cfg.get(key), str):
                cfg[key] = self._anchor(cfg[key], output=key in _WRITTEN)
        for key in ("datasets", "test_datasets"):
            for dataset in cfg.get(key) or []:
                dataset["path"] = self._anchor(dataset["path"])
        freeze_template(cfg, self.run)
        prepare_trackers(cfg, self.run, os.environ)

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
        from multitask.runners.axolotl.trainer import trainer_class

        return trainer_class(cfg)

    def get_training_args(self, cfg: Any) -> dict[str, Any]:
        """Replace what Axolotl derives from evaluation keys."""
        from multitask.runners.axolotl.trainer import training_arguments

        return training_arguments(cfg)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Hold what learns in float32; set up evaluation and balance by task."""
        from multitask.runners.axolotl.trainer import hold_weights, watch_tasks

        self._loaded_as = hold_weights(cfg, trainer.model)
        watch_tasks(cfg, trainer, self.run)

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:  # noqa: ARG002
        """Add the callbacks that need no tokenised data: progress, saves, and AdaLoRA's ranks."""
        callbacks = [ProgressCallback(self.run.trainer_events), CheckpointCallback(self.run)]
        return callbacks + [adalora.AdaLoraCallback()] * (cfg["adapter"] == adalora.NAME)

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
        from multitask.callbacks.trainer import restore

        restore(model, self._loaded_as)

    def get_adapter_capabilities(self) -> list[AdapterCapabilities]:
        """Make ``adapter: adalora`` known to Axolotl."""
        return [AdapterCapabilities(name=adalora.NAME, lora_like=True)]

    def load_adapter(
        self, model: Any, cfg: Any, inference: bool = False, config_only: bool = False
    ) -> tuple[Any, Any] | None:
        """Load AdaLoRA where it is asked for."""
        if cfg["adapter"] != adalora.NAME or inference or config_only:
            return None
        return adalora.load_adalora(model, cfg)


def freeze_template(cfg: Any, run: Run) -> None:
    """Let Axolotl train with a copy of a chat template that shows the date, with a fixed one.

    ``build-config`` has done so where it had the tokenizer. Axolotl saves the copy with the model,
    so that scoring and whoever loads the model use it too.

    Args:
        cfg: Axolotl's configuration before validation; changed in place.
        run: The run, which keeps the copy.

    Raises:
        InputError: The template's date cannot be frozen.
    """
    template = _template(cfg)
    if template is None or "strftime_now" not in template:
        return
    path = run.root / TEMPLATE_FILE
    frozen = freeze_date(template)
    # Every process of every node writes the same.
    if not path.is_file() or path.read_text(encoding="utf-8") != frozen:
        write_atomic(path, frozen)
    cfg["chat_template"], cfg["chat_template_jinja"] = "jinja", str(path)


def _template(cfg: Any) -> str | None:
    """The template's text; None where it cannot be had, which Axolotl will say itself."""
    from axolotl.utils.chat_templates import get_chat_template
    from transformers import AutoTokenizer

    choice = cfg.get("chat_template") or "tokenizer_default"
    try:
        tokenizer = None
        if choice.startswith("tokenizer_default"):
            tokenizer = AutoTokenizer.from_pretrained(
                cfg.get("tokenizer_config") or cfg["base_model"],
                trust_remote_code=bool(cfg.get("trust_remote_code")),
            )
        return str(get_chat_template(choice, cfg.get("chat_template_jinja"), tokenizer))
    except (OSError, ValueError, KeyError, AttributeError, ImportError):
        return None
