"""Balance between tasks: what the training batches really held, and how tasks are weighed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from multitask.callbacks.answers import IGNORED, LossOverAnswers, PlainLoss
from multitask.callbacks.identify import BatchReader, SampleTable
from multitask.training_spec import BalanceSpec


def lagging_weights(
    now: Mapping[str, float], first: Mapping[str, float], spec: BalanceSpec
) -> dict[str, float]:
    """Weigh tasks by how little of their first loss they have lost.

    A task's lag is its loss as a share of its first one; tasks are weighed by their lag over the
    mean lag, to a power, within limits, as the inverse training rate of GradNorm (Chen et al.
    2018) does with gradients.

    Args:
        now: Each task's validation loss.
        first: Its validation loss before training.
        spec: Power and limit.

    Returns:
        A factor for each task; all 1 where all have come equally far.
    """
    lags = {task: now[task] / first[task] for task in now if first.get(task)}
    if not lags:
        return dict.fromkeys(now, 1.0)
    mean = sum(lags.values()) / len(lags)
    factors = {
        task: min(spec.limit, max(1 / spec.limit, (lag / mean) ** spec.strength))
        for task, lag in lags.items()
    }
    return dict.fromkeys(now, 1.0) | factors


class TaskBalance:
    """Sums losses, tokens and rows of each task over training batches, and weighs losses.

    Attributes:
        names: Names of the tasks.
        weights: The factor of each task's token losses at present.
    """

    def __init__(self, table: SampleTable, names: Sequence[str], spec: BalanceSpec) -> None:
        """Watch batches of the samples in ``table``, for tasks of these names."""
        self.names = tuple(names)
        self.spec = spec
        self.weights = {name: spec.loss_weights.get(name, 1.0) for name in self.names}
        self._reader = BatchReader(table)
        self._sums: Any = None

    @property
    def public_names(self) -> dict[str, str]:
        """The trainer's keys for this object's metrics, with the names that trackers show."""
        kinds = ("loss", "tokens", "rows", "weight")
        keys = [f"{name}/{kind}" for name in (*self.names, "unknown") for kind in kinds]
        return {key: f"train/{key}" for key in keys}

    def compute_loss(
        self,
        plain: PlainLoss,
        model: Any,
        inputs: Any,
        return_outputs: bool,
        items: Any,
        over: LossOverAnswers | None = None,
    ) -> Any:
        """Compute a training batch's loss and add it to the sums.

        Args:
            plain: The trainer's own way, by the model's loss or by one that is handed in.
            model: The model, wrapped for training.
            inputs: The batch.
            return_outputs: Whether the model's outputs are wanted as well.
            items: Supervised tokens of the whole step, where the trainer divides by them.
            over: How the loss is computed.
        """
        tasks, rows = self._reader.tasks_of(inputs)
        targets, tasks = inputs["labels"][:, 1:], tasks[:, 1:]
        factors = self._factors(targets)[tasks] if self.spec.weighs else None
        over = over or LossOverAnswers()
        loss, outputs, losses = over.compute(plain, model, inputs, items, factors)
        self._add(targets, tasks, rows, losses)
        return (loss, outputs) if return_outputs else loss

    def _factors(self, like: Any) -> Any:
        """The factor of each task, and 1 for tokens of none."""
        import torch

        factors = [*(self.weights[name] for name in self.names), 1.0]
        return torch.tensor(factors, device=like.device)

    def _add(self, targets: Any, tasks: Any, rows: Any, losses: Any) -> None:
        """Add a batch: per task the loss, the tokens it is of, all tokens, and rows."""
        import torch

        if self._sums is None or self._sums.device != targets.device:
            self._sums = torch.zeros(
                len(self.names) + 1, 4, dtype=torch.float64, device=targets.device
            )
        asked = (targets != IGNORED).double()
        known = asked if losses is not None else torch.zeros_like(asked)
        summed = torch.zeros_like(asked) if losses is None else losses.double()
        values = torch.stack([summed, known, asked], dim=-1).flatten(0, 1)
        self._sums[:, :3].index_add_(0, tasks.flatten(), values)
        self._sums[:, 3] += rows

    def take(self, reduce: Callable[[Any], Any]) -> dict[str, float]:
        """Give the metrics since the last call and begin anew; every process calls this.

        Args:
            reduce: Sums a tensor over all processes.

        Returns:
            ``TASK/loss`` (mean over its supervised tokens), ``/tokens``, ``/rows``, and
            ``/weight`` where losses are weighed; ``unknown/tokens`` where there are any.
        """
        if self._sums is None:
            return {}
        sums = reduce(self._sums).tolist()
        self._sums = None
        metrics: dict[str, float] = {}
        for name, (loss, known, tokens, rows) in zip((*self.names, "unknown"), sums, strict=True):
            if name == "unknown" and not tokens:
                continue
            if known:
                metrics[f"{name}/loss"] = loss / known
            metrics |= {f"{name}/tokens": tokens, f"{name}/rows": rows}
            if self.spec.weighs and name in self.weights:
                metrics[f"{name}/weight"] = self.weights[name]
        return metrics

    def reweigh(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Set the weights by the schedule from the trainer's evaluations so far."""
        if self.spec.schedule == "off":
            return
        losses = [
            {
                name: entry[f"eval/{name}/loss"]
                for name in self.names
                if f"eval/{name}/loss" in entry
            }
            for entry in history
        ]
        losses = [found for found in losses if found]
        if losses:
            factors = lagging_weights(losses[-1], losses[0], self.spec)
            for name, factor in factors.items():
                self.weights[name] = self.spec.loss_weights.get(name, 1.0) * factor


class BalanceCallback(TrainerCallback):
    """Hands a balance's metrics to the trainer's log and to a file, and moves its weights."""

    def __init__(self, trainer: Any, path: Path) -> None:
        """Serve ``trainer.balance``; append to ``path``, one JSON object a line."""
        self._trainer = trainer
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Take up the weights of a resumed training."""
        self._trainer.balance.reweigh(state.log_history)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Log what the batches since the last log held."""
        if control.should_log:
            self._trainer.store_metrics(self._take(state), train_eval="train")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write what the last steps held, after the trainer's last log."""
        self._take(state)

    def _take(self, state: Any) -> dict[str, float]:
        """Sum over processes, and write a line in the first one."""
        balance = self._trainer.balance
        metrics: dict[str, float] = balance.take(
            lambda sums: self._trainer.accelerator.reduce(sums, "sum")
        )
        if metrics and state.is_world_process_zero:
            names = balance.public_names
            line = {"step": state.global_step} | {names[k]: v for k, v in metrics.items()}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return metrics

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Weigh tasks anew."""
        self._trainer.balance.reweigh(state.log_history)
