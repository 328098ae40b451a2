"""The trainer of our runs: Axolotl's own, with evaluation and losses by task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axolotl.core.trainers import AxolotlTrainer

from multitask.callbacks.answers import LossOverAnswers
from multitask.callbacks.balance import TaskBalance
from multitask.callbacks.best import public_name
from multitask.callbacks.per_task import TaskEvaluator
from multitask.models.adapter import require_whole


class MultitaskTrainer(AxolotlTrainer):
    """Axolotl's trainer; without an evaluator and a balance it does what that does.

    Attributes:
        evaluator: Replaces the evaluation over merged rows.
        balance: Watches or weighs training losses by task.
        over: How the training loss is computed.
        evaluation_log: Where evaluations are appended, one JSON object a line.
    """

    evaluator: TaskEvaluator | None = None
    balance: TaskBalance | None = None
    over: LossOverAnswers = LossOverAnswers(enabled=False)
    evaluation_log: Path | None = None
    control: Any
    compute_loss_func: Any

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate each task; a dataset that is handed in is evaluated by Axolotl."""
        if self.evaluator is None or eval_dataset is not None:
            metrics: dict[str, float] = super().evaluate(
                eval_dataset, ignore_keys, metric_key_prefix
            )
            return metrics
        metrics = self.evaluator.evaluate(self, at_save=self.control.should_save)
        self.log(dict(metrics))
        self._append(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the loss over the supervised columns; the balance watches or weighs it."""
        if not model.training or "labels" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.balance is None:
            loss, outputs, _ = self.over.compute(
                self._compute_loss_by, model, inputs, num_items_in_batch
            )
            return (loss, outputs) if return_outputs else loss
        return self.balance.compute_loss(
            self._compute_loss_by, model, inputs, return_outputs, num_items_in_batch, self.over
        )

    def _compute_loss_by(
        self, model: Any, inputs: Any, items: Any, function: Callable[..., Any] | None
    ) -> tuple[Any, Any]:
        """Compute a loss in Axolotl's way, with a loss function for this batch alone.

        Were it set for good, the trainer would also divide by other counts of tokens.
        """
        before = self.compute_loss_func
        self.compute_loss_func = function or before
        try:
            loss, outputs = super().compute_loss(model, inputs, True, items)
        finally:
            self.compute_loss_func = before
        return loss, outputs

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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and give per-task metrics the names that wandb and TensorBoard show."""
        super().log(logs, start_time)
        names = {} if self.balance is None else self.balance.public_names
        entry = self.state.log_history[-1]
        self.state.log_history[-1] = {
            names.get(key, public_name(key)): value for key, value in entry.items()
        }

    def _append(self, metrics: dict[str, float]) -> None:
        if self.evaluation_log is None or not self.is_world_process_zero():
            return
        line = {"step": self.state.global_step, "epoch": self.state.epoch}
        line |= {public_name(key): value for key, value in metrics.items()}
        line["eval/loss"] = line.pop("eval_loss")
        self.evaluation_log.parent.mkdir(parents=True, exist_ok=True)
        with self.evaluation_log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
