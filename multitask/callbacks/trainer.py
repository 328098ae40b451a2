"""What a trainer of ours does besides its engine: evaluation by task, true resuming, float32."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from multitask.callbacks.evaluation import TaskEvaluator
from multitask.callbacks.rows import EvaluationRows
from multitask.callbacks.selection import SelectionCallback, public_name
from multitask.models.adapter import require_whole
from multitask.run import Run, write_atomic
from multitask.training_spec import PluginSettings

if TYPE_CHECKING:
    import torch


class TaskTrainer(Trainer):
    """Goes in front of an engine's trainer; without an evaluator it does what that does.

    Attributes:
        evaluator: Replaces the evaluation over merged rows.
        evaluation_log: Where evaluations are appended, one JSON object a line.
        logged_as: Names of metrics in the log's history, beside those of evaluations.
    """

    evaluator: TaskEvaluator | None = None
    evaluation_log: Path | None = None
    logged_as: Mapping[str, str] = {}
    control: Any

    def evaluate_tasks(
        self, run: Run, rows: EvaluationRows, settings: PluginSettings, *, tokens: int
    ) -> None:
        """Evaluate ``rows`` by task, in batches of at most ``tokens``, and choose by the score."""
        self.evaluator = TaskEvaluator(rows, settings, tokens=tokens)
        self.evaluation_log = run.evaluation_log
        if self.is_world_process_zero():
            write_atomic(run.evaluation_rows, json.dumps(rows.ids(), indent=1) + "\n")
        self.add_callback(SelectionCallback(settings.evaluation, self.evaluator))

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **options: Any,
    ) -> dict[str, float]:
        """Evaluate each task; a dataset that is handed in is evaluated by the engine."""
        if self.evaluator is None or eval_dataset is not None:
            metrics: dict[str, float] = super().evaluate(
                eval_dataset, ignore_keys, metric_key_prefix, **options
            )
            return metrics
        metrics = self.evaluator.evaluate(self, at_save=self.control.should_save)
        self.log(dict(metrics))
        if self.evaluation_log is not None and self.is_world_process_zero():
            line = {"step": self.state.global_step, "epoch": self.state.epoch}
            line |= {public_name(key): value for key, value in metrics.items()}
            line["eval/loss"] = line.pop("eval_loss")
            self.evaluation_log.parent.mkdir(parents=True, exist_ok=True)
            with self.evaluation_log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and give per-task metrics the names that wandb and TensorBoard show."""
        super().log(logs, start_time)
        self.state.log_history[-1] = {
            self.logged_as.get(key, public_name(key)): value
            for key, value in self.state.log_history[-1].items()
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Resume, unless the checkpoint's adapter is not this model's: PEFT would only warn."""
        trained = self.model if model is None else model
        if hasattr(trained, "peft_config"):
            require_whole(trained, Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train nothing where all steps are done: resumed from its last checkpoint.

        transformers 5.16 looks at ``max_steps`` only after a step, and would make one too many.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)


def hold_in_float32(model: Any, *, gives_weights: bool = False) -> dict[str, torch.dtype]:
    """Hold every parameter that learns in float32, so that no small update is rounded away.

    Engines load all weights in bfloat16 (``axolotl/loaders/model.py``,
    ``_set_device_map_config``), and nothing raises them: accelerate's code for FSDP2 binds a
    converted copy to a name and drops it (``accelerate/utils/fsdp_utils.py``, the end of
    ``fsdp2_prepare_model``). Weights, gradients and Adam would all have 8 significant bits. Held in
    float32, they still compute in bfloat16: by FSDP2's mixed-precision policy, or by autocast.

    Args:
        model: The model as it will be trained, before its optimizer is made.
        gives_weights: Whether FSDP2 gives all but a machine's first process their weights. What
            they hold is not read: converting would touch memory that was never written, a whole
            model for each process of a node.

    Returns:
        What was changed: the data type that each parameter was loaded in.
    """
    import torch

    waits = gives_weights and os.environ.get("LOCAL_RANK", "0") != "0"
    loaded: dict[str, torch.dtype] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            loaded[name] = parameter.dtype
            parameter.data = (
                torch.empty_like(parameter.data, dtype=torch.float32)
                if waits
                else parameter.data.to(torch.float32)
            )
    return loaded


def restore(model: Any, loaded: Mapping[str, torch.dtype]) -> None:
    """Give parameters the data type that they were loaded in, for the final save.

    Sharded weights are left alone: they are merged from the last checkpoint in bfloat16
    (``axolotl/cli/merge_sharded_fsdp_weights.py``, ``BFloat16CastPlanner``).
    """
    from torch.distributed.tensor import DTensor

    for name, parameter in model.named_parameters():
        if name in loaded and not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(loaded[name])
