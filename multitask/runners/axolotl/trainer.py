"""The trainer of our runs: Axolotl's own, with evaluation and losses by task, and its set-up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from axolotl.core.trainers import AxolotlTrainer
from axolotl.utils.logging import get_logger

from multitask.callbacks.balance import BalanceCallback, SampleTable, TaskBalance
from multitask.callbacks.loss import (
    BatchMetadata,
    answer_loss,
    causal_model,
    reads_lengths,
    takes_columns,
)
from multitask.callbacks.progress import ResumeCallback
from multitask.callbacks.rows import RowFile, choose_rows, count_evaluations, row_budget
from multitask.callbacks.tracking import MlflowCallback, WandbCallback
from multitask.callbacks.trainer import TaskTrainer, hold_in_float32
from multitask.errors import MultitaskError
from multitask.run import Run
from multitask.runners.axolotl import adalora
from multitask.runners.axolotl.align import align_dataset, axolotl_tokenizer, check_turn
from multitask.training_spec import PluginSettings

_LOG = get_logger(__name__)

# Trainers of Axolotl's own for other kinds of training, which have no tasks of ours.
_OTHER_TRAINING = ("rl", "reward_model", "process_reward_model", "trainer_cls")


class MultitaskTrainer(TaskTrainer, AxolotlTrainer):
    """Axolotl's trainer; without an evaluator and a balance it does what that does.

    Attributes:
        balance: Watches or weighs training losses by task.
        over_answers: Whether the training loss asks for logits of supervised columns alone.
    """

    balance: TaskBalance | None = None
    over_answers: bool = False
    compute_loss_func: Any

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
        compute = answer_loss if self.balance is None else self.balance.compute_loss
        loss, outputs, *_ = compute(
            self._compute_loss_by, model, inputs, num_items_in_batch, enabled=self.over_answers
        )
        return (loss, outputs) if return_outputs else loss

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


def settings_of(cfg: Any) -> PluginSettings:
    """The plugin's section of Axolotl's validated configuration."""
    section = cfg.get("multitask") or {}
    return PluginSettings.model_validate(
        section.to_dict() if hasattr(section, "to_dict") else section
    )


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
    arguments: dict[str, Any] = {}
    # Axolotl gives Trackio a name alone: all runs would be in one project, and in no Space.
    if cfg.get("use_trackio"):
        arguments |= {
            "project": cfg.trackio_project_name,
            "trackio_space_id": cfg.trackio_space_id,
        }
    evaluation = settings_of(cfg).evaluation
    if trainer_class(cfg) is None or not evaluation.rows_per_task or not cfg.get("test_datasets"):
        return arguments
    arguments["eval_on_start"] = evaluation.at_start
    if not cfg.get("metric_for_best_model"):
        arguments["load_best_model_at_end"] = False
    return arguments


def hold_weights(cfg: Any, model: Any) -> dict[str, Any]:
    """:func:`hold_in_float32`; DeepSpeed and FSDP1 keep float32 copies of their own."""
    fsdp = cfg.fsdp_config
    if cfg.deepspeed or (fsdp and str(cfg.fsdp_version) != "2") or not (cfg.bf16 or cfg.fp16):
        return {}
    gives_weights = bool(fsdp and fsdp.cpu_ram_efficient_loading)
    return hold_in_float32(model, gives_weights=gives_weights)


def watch_tasks(cfg: Any, trainer: Any, run: Run) -> None:
    """Give a trainer, just made, what it needs to evaluate, watch and weigh tasks.

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
            _LOG.warning(
                "tasks are not evaluated: `test_datasets` is not the run's validation split"
            )
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
    if cfg.use_mlflow:
        trainer.add_callback(MlflowCallback(run))


def _evaluate_tasks(
    cfg: Any, trainer: MultitaskTrainer, run: Run, settings: PluginSettings
) -> None:
    """Choose the rows of a training's evaluations."""
    file, dataset = RowFile.read(run.split("validation")), trainer.eval_dataset
    if len(file) == 0 or dataset is None:
        trainer.args.eval_on_start = False
        return
    tokenizer, named = trainer.processing_class, cfg.test_datasets[0]
    longest = cfg.eval_sequence_len or cfg.sequence_len
    tokenize = axolotl_tokenizer(cfg, named, tokenizer)
    order = align_dataset(file, dataset, tokenize, cfg, longest=longest)
    evaluation = settings.evaluation
    budget = row_budget(
        evaluation.rows_per_task,
        share=evaluation.share,
        trained_rows=_trained_rows(cfg, trainer),
        evaluations=count_evaluations(trainer.args, at_start=evaluation.at_start),
        tasks=len(file.names),
    )
    answers = None
    if cfg.train_on_inputs:
        plain = type(cfg)({**cfg, "train_on_inputs": False})
        answers = axolotl_tokenizer(plain, named, tokenizer)
    rows = choose_rows(file, dataset, order, budget=budget, seed=settings.seed, answers=answers)
    if not rows.rows:
        raise MultitaskError(
            "no validation row fits into a sequence, so no task can be evaluated",
            where=file.path,
            fix="raise `sequence_len`, or set `evaluation: {rows_per_task: 0}`",
        )
    tokens = cfg.micro_batch_size * cfg.sequence_len
    trainer.evaluate_tasks(run, rows, settings, tokens=tokens)


def _trained_rows(cfg: Any, trainer: Any) -> float:
    """About how many rows the training sees, repeats counted."""
    rows = len(trainer.train_dataset)
    all_rows = float(rows * trainer.args.num_train_epochs)
    if not cfg.max_steps:
        return all_rows
    per_sequence = 1.0
    if cfg.sample_packing and cfg.total_num_tokens:
        per_sequence = max(1.0, cfg.sequence_len * rows / cfg.total_num_tokens)
    sequences = cfg.micro_batch_size * cfg.gradient_accumulation_steps * trainer.args.world_size
    return min(all_rows, float(cfg.max_steps * sequences * per_sequence))


def _balance_tasks(cfg: Any, trainer: MultitaskTrainer, run: Run, settings: PluginSettings) -> None:
    file = RowFile.read(run.split("train"))
    tokenizer = trainer.processing_class
    tokenize = axolotl_tokenizer(cfg, cfg.datasets[0], tokenizer)
    learned = check_turn(file.row(0), tokenize, tokenizer)
    if trainer.is_world_process_zero():
        _LOG.info(f"what is learned of the first row of train.jsonl: {learned!r}")
    try:
        order = align_dataset(file, trainer.train_dataset, tokenize, cfg, longest=cfg.sequence_len)
    except MultitaskError as error:
        if settings.balance.weighs:
            raise
        _LOG.warning(f"training losses are not logged by task: {error}")
        return
    if settings.balance.weighs:
        _refuse_other_losses(cfg, trainer)
    table = SampleTable.build(trainer.train_dataset, file.tasks[order], len(file.names))
    trainer.balance = TaskBalance(table, file.names, settings.balance)
    trainer.logged_as = trainer.balance.public_names
    trainer.add_callback(BalanceCallback(trainer, run.balance_log))


def _compute_less(cfg: Any, trainer: MultitaskTrainer) -> None:
    """Compute the loss over answers alone, and what a batch says of itself once a batch.

    Compiled, a model would be compiled anew for every other number of columns or rows; with
    context parallelism a process sees a part of each row.
    """
    if cfg.torch_compile or (cfg.context_parallel_size or 1) > 1:
        return
    base = causal_model(trainer.model)
    # Where the loss is the mean over tokens, and logits stand where the tokens do.
    trainer.over_answers = takes_columns(base) and not (
        trainer.compute_loss_func is not None
        or trainer.label_smoother is not None
        or cfg.adapter == adalora.NAME  # its penalty is a part of the loss
        # virtual tokens come before the logits
        or getattr(getattr(trainer.model, "active_peft_config", None), "is_prompt_learning", False)
    )
    lengths = bool(cfg.sample_packing) and reads_lengths(base)
    if trainer.over_answers or lengths:
        trainer.data_collator = BatchMetadata(
            trainer.data_collator, packed_lengths=lengths, columns=trainer.over_answers
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
