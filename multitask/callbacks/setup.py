"""Setting a trainer up: evaluation, balance, selection and tracking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from multitask.callbacks.align import RowFile, align, axolotl_tokenizer
from multitask.callbacks.balance import BalanceCallback, TaskBalance
from multitask.callbacks.best import SelectionCallback
from multitask.callbacks.identify import SampleTable
from multitask.callbacks.per_task import build_evaluator, shuffle_seed
from multitask.callbacks.resume import ResumeCallback
from multitask.callbacks.settings import settings_of
from multitask.callbacks.tracking import WandbCallback
from multitask.callbacks.trainer import MultitaskTrainer
from multitask.errors import MultitaskError
from multitask.run import Run, write_atomic
from multitask.training_spec import PluginSettings

# Trainers of Axolotl's own for other kinds of training, which have no tasks of ours.
_OTHER_TRAINING = ("rl", "reward_model", "process_reward_model", "trainer_cls")


def trainer_class(cfg: Any) -> type[MultitaskTrainer] | None:
    """Our trainer for supervised fine-tuning, None where Axolotl or the user has another."""
    if any(cfg.get(key) for key in _OTHER_TRAINING) or cfg.get("model_config_type") == "mamba":
        return None
    return MultitaskTrainer


def training_arguments(cfg: Any) -> dict[str, Any]:
    """Trainer arguments in place of those that Axolotl derives.

    Axolotl evaluates at the start whenever an evaluation key is set, and loads the checkpoint of
    the lowest merged loss at the end where evaluations and saves coincide. Here the first follows
    the section's ``at_start``, and the second happens only when the user names a metric.
    """
    evaluation = settings_of(cfg).evaluation
    if trainer_class(cfg) is None or not evaluation.rows_per_task or not cfg.get("test_datasets"):
        return {}
    arguments: dict[str, Any] = {"eval_on_start": evaluation.at_start}
    if not cfg.get("metric_for_best_model"):
        arguments["load_best_model_at_end"] = False
    return arguments


def watch_tasks(cfg: Any, trainer: Any, run: Run) -> None:
    """Give a trainer what it needs to evaluate, watch and weigh tasks.

    Args:
        cfg: Axolotl's configuration.
        trainer: The trainer, just made.
        run: The run.

    Raises:
        MultitaskError: Rows cannot be told apart by task, though weights or evaluation need it.
    """
    if not isinstance(trainer, MultitaskTrainer):
        return
    settings = settings_of(cfg)
    trainer.add_callback(ResumeCallback(run.evaluation_log, run.balance_log))
    _refuse_context_parallel(cfg, settings)
    if settings.evaluation.rows_per_task:
        if _is_ours(cfg.test_datasets, run.split("validation")):
            _evaluate_tasks(cfg, trainer, run, settings)
        else:
            trainer.args.eval_on_start = False
            _warn("tasks are not evaluated: `test_datasets` is not the run's validation split")
    if _is_ours(cfg.datasets, run.split("train")):
        _balance_tasks(cfg, trainer, run, settings)
    elif settings.balance.weighs:
        raise MultitaskError(
            "losses cannot be weighed by task, since `datasets` is not the run's training split",
            where="axolotl.yaml: datasets",
            fix="remove `datasets` from the spec's `axolotl`, or `balance`",
        )
    if cfg.use_wandb:
        trainer.add_callback(WandbCallback(run))


def _evaluate_tasks(
    cfg: Any, trainer: MultitaskTrainer, run: Run, settings: PluginSettings
) -> None:
    file = RowFile.read(run.split("validation"))
    if len(file) == 0 or trainer.eval_dataset is None:
        trainer.args.eval_on_start = False
        return
    evaluator = build_evaluator(cfg, trainer, file, settings)
    trainer.evaluator, trainer.evaluation_log = evaluator, run.evaluation_log
    if trainer.is_world_process_zero():
        write_atomic(run.evaluation_rows, json.dumps(evaluator.rows.ids(), indent=1) + "\n")
    trainer.add_callback(SelectionCallback(settings.evaluation, evaluator))


def _balance_tasks(cfg: Any, trainer: MultitaskTrainer, run: Run, settings: PluginSettings) -> None:
    file = RowFile.read(run.split("train"))
    try:
        order = align(
            file,
            trainer.train_dataset,
            axolotl_tokenizer(cfg, cfg.datasets[0], trainer.processing_class),
            longest=cfg.sequence_len,
            shuffle_seed=shuffle_seed(cfg),
            truncated=cfg.excess_length_strategy == "truncate",
        )
    except MultitaskError as error:
        if settings.balance.weighs:
            raise
        _warn(f"training losses are not logged by task: {error}")
        return
    table = SampleTable.build(trainer.train_dataset, file.tasks[order], len(file.names))
    trainer.balance = TaskBalance(
        table,
        file.names,
        settings.balance,
        is_measured=lambda: (trainer.state.global_step + 1) % _logging_steps(trainer) == 0,
    )
    trainer.add_callback(BalanceCallback(trainer, run.balance_log))


def _logging_steps(trainer: Any) -> int:
    return max(1, int(trainer.state.logging_steps or 1))


def _is_ours(datasets: Any, path: Path) -> bool:
    """Whether Axolotl was given this file and no other."""
    return bool(datasets) and len(datasets) == 1 and Path(datasets[0]["path"]) == path


def _refuse_context_parallel(cfg: Any, settings: PluginSettings) -> None:
    if (cfg.context_parallel_size or 1) > 1 and (
        settings.evaluation.rows_per_task or settings.balance.weighs
    ):
        raise MultitaskError(
            "with context parallelism a process sees only a part of each row, so tasks can "
            "neither be evaluated nor weighed",
            where="axolotl.yaml: multitask",
            fix="set `evaluation: {rows_per_task: 0}` and no loss weights, or "
            "context_parallel_size: 1",
        )


def _warn(message: str) -> None:
    from axolotl.utils.logging import get_logger

    get_logger(__name__).warning(message)
