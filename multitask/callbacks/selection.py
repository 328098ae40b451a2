"""Which checkpoint is the best of a multi-task training, and when to stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from multitask.run import write_atomic
from multitask.training_spec import EvaluationSpec

SCORE = "eval_score"
LOSS = "eval_macro/loss"


def score(values: Mapping[str, float], spec: EvaluationSpec) -> float:
    """One number for how good a model is at all tasks.

    Args:
        values: The metric of each task, between 0 and 1.
        spec: The rule, ``macro`` (mean over tasks) or ``worst``, and the floors.

    Returns:
        The rule's value, from 0 to 1. Where tasks are below their floor, a number below 0, and
        the further below the more the worst of them lacks.
    """
    lacking = max(spec.floor_of(task) - value for task, value in values.items())
    if lacking > 0:
        return -lacking
    worst = min(values.values())
    return worst if spec.best == "worst" else sum(values.values()) / len(values)


class SelectionCallback(TrainerCallback):
    """Asks for an evaluation at every save, keeps the best checkpoint, and stops early.

    What it knows is in the trainer's state, so a resumed training goes on with it. The trainer's
    own rotation never removes the best checkpoint.
    """

    def __init__(self, spec: EvaluationSpec, evaluator: Any) -> None:
        """Judge by ``spec`` what a ``TaskEvaluator`` finds."""
        self._spec, self._evaluator = spec, evaluator

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Leave out the evaluation before the first step where it is not the first."""
        self._evaluator.restart_clock()
        if state.global_step > 0:
            args.eval_on_start = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Evaluate where a checkpoint is about to be written, unless it is an emergency."""
        interrupted = control.should_training_stop and state.global_step < state.max_steps
        if control.should_save and not interrupted:
            control.should_evaluate = True

    on_epoch_end = on_step_end  # where checkpoints are written by epochs

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Note a better score, or that there was none for too long."""
        if SCORE not in metrics or args.metric_for_best_model:
            return  # no checkpoint is written here, or the user chose another rule
        value = metrics[SCORE]
        if state.best_metric is None or self._better(value, metrics[LOSS], state):
            state.best_metric = value
            state.best_global_step = state.global_step
        stopping = self._spec.early_stopping
        if stopping and waited(state.log_history, stopping.min_delta) >= stopping.patience:
            control.should_training_stop = True

    def _better(self, value: float, loss: float, state: Any) -> bool:
        """Compare with the best so far; of equal scores the lower loss wins."""
        if value != state.best_metric:
            return bool(value > state.best_metric)
        losses = [
            entry[public_name(LOSS)]
            for entry in state.log_history
            if entry["step"] == state.best_global_step and public_name(LOSS) in entry
        ]
        return bool(losses) and loss < losses[-1]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write ``best.json`` beside the checkpoints when the one just written is the best."""
        checkpoint = f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        output = Path(args.output_dir)
        if not state.is_world_process_zero or state.best_global_step != state.global_step:
            return
        if (output / checkpoint).is_dir():
            record = {
                "checkpoint": checkpoint,
                "step": state.best_global_step,
                "score": state.best_metric,
                "rule": self._spec.best,
                "metric": self._spec.metric,
                "floor": self._spec.floor,
                "tasks": self._evaluator.latest,
            }
            write_atomic(output / "best.json", json.dumps(record, indent=2) + "\n")


def waited(history: list[dict[str, Any]], min_delta: float) -> int:
    """How many evaluations at saves have passed since the score last rose by more than that."""
    best, passed = float("-inf"), 0
    for entry in history:
        value = entry.get(public_name(SCORE))
        if value is not None:
            passed += 1
            if value > best + min_delta:
                best, passed = value, 0
    return passed


def public_name(key: str) -> str:
    """The name that a metric has in our files, in wandb and in TensorBoard.

    The trainer wants ``eval_`` in front; its trackers write that as ``eval/``.
    """
    if key.startswith("eval_") and ("/" in key or key in (SCORE, "eval_seconds", "eval_share")):
        return "eval/" + key.removeprefix("eval_")
    return key
