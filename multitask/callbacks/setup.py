"""Setting a trainer up: evaluation, balance, selection and tracking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from multitask.callbacks import adalora
from multitask.callbacks.align import RowFile, align, axolotl_tokenizer, check_turn
from multitask.callbacks.answers import LossOverAnswers, causal_model, takes_columns
from multitask.callbacks.balance import BalanceCallback, TaskBalance
from multitask.callbacks.best import SelectionCallback
from multitask.callbacks.collate import BatchMetadata, reads_lengths
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
    _compute_less(cfg, trainer)
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
    tokenizer = trainer.processing_class
    tokenize = axolotl_tokenizer(cfg, cfg.datasets[0], tokenizer)
    learned = check_turn(file.row(0), tokenize, tokenizer)
    if trainer.is_world_process_zero():
        _say(f"what is learned of the first row of train.jsonl: {learned!r}")
    try:
        order = align(
            file,
            trainer.train_dataset,
            tokenize,
            longest=cfg.sequence_len,
            shuffle_seed=shuffle_seed(cfg),
            truncated=cfg.excess_length_strategy == "truncate",
        )
    except MultitaskError as error:
        if settings.balance.weighs:
            raise
        _warn(f"training losses are not logged by task: {error}")
        return
    if settings.balance.weighs:
        _refuse_other_losses(cfg, trainer)
    table = SampleTable.build(trainer.train_dataset, file.tasks[order], len(file.names))
    trainer.balance = TaskBalance(table, file.names, settings.balance)
    trainer.add_callback(BalanceCallback(trainer, run.balance_log))


def _compute_less(cfg: Any, trainer: MultitaskTrainer) -> None:
    """Compute the loss over answers alone, and what a batch says of itself once a batch.

    Compiled, a model would be compiled anew for every other number of columns or rows; with
    context parallelism a process sees a part of each row.
    """
    if cfg.torch_compile or (cfg.context_parallel_size or 1) > 1:
        return
    base = causal_model(trainer.model)
    columns = takes_columns(base) and _has_plain_loss(cfg, trainer)
    trainer.over = LossOverAnswers(enabled=columns)
    lengths = bool(cfg.sample_packing) and reads_lengths(base)
    if columns or lengths:
        trainer.data_collator = BatchMetadata(
            trainer.data_collator, packed_lengths=lengths, columns=columns
        )


def _has_plain_loss(cfg: Any, trainer: Any) -> bool:
    """Whether the loss is the mean over tokens, and logits stand where the tokens do."""
    config = getattr(trainer.model, "active_peft_config", None)
    return not (
        trainer.compute_loss_func is not None
        or trainer.label_smoother is not None
        or cfg.adapter == adalora.NAME  # its penalty is a part of the loss
        or getattr(config, "is_prompt_learning", False)  # virtual tokens come before them
    )


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


def _refuse_other_losses(cfg: Any, trainer: MultitaskTrainer) -> None:
    """A weighted loss replaces the model's own, and with it what others have made of that."""
    other = "use_eaft" if trainer.compute_loss_func is not None else None
    if cfg.adapter == adalora.NAME:
        other = "the method adalora, whose penalty is a part of the loss"
    if other is not None:
        raise MultitaskError(
            f"losses cannot be weighed by task with {other}",
            where="axolotl.yaml: multitask.balance",
            fix="remove one of the two",
        )


def _warn(message: str) -> None:
    from axolotl.utils.logging import get_logger

    get_logger(__name__).warning(message)


def _say(message: str) -> None:
    from axolotl.utils.logging import get_logger

    get_logger(__name__).info(message)
