"""Evaluation of each task inside the training: loss, token accuracy and exact match.

Answers alone count, also where training learns prompts. One forward pass per batch of rows, with
logits only where an answer's tokens are predicted. When every token of an answer is the most
probable one given the tokens before it, greedy decoding writes that answer: so exact match needs
no generation. Sums are made on the device, and only they are exchanged between processes. Every
process runs the same number of batches, so none waits for another in a sharded model's
collectives.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multitask.callbacks.align import RowFile, Tokenize, align, axolotl_tokenizer
from multitask.callbacks.answers import IGNORED, causal_model, takes_columns
from multitask.callbacks.best import SCORE, score
from multitask.callbacks.choose import row_budget, stratified
from multitask.data.render import gold
from multitask.errors import MultitaskError
from multitask.training_spec import PluginSettings

# Bound on logits held at once, in elements: 1 GiB in float32.
_LOGITS = 2**28


@dataclass(frozen=True)
class EvaluationRow:
    """A tokenised validation row.

    Attributes:
        task: Its task's place among the names.
        id: Its id in ``data/validation.jsonl``.
        input_ids: Axolotl's tokens.
        labels: Axolotl's labels, -100 where nothing is learned.
    """

    task: int
    id: str
    input_ids: Sequence[int]
    labels: Sequence[int]

    @property
    def first(self) -> int:
        """The column of the first token that is predicted."""
        return next(i for i, label in enumerate(self.labels) if label != IGNORED)


@dataclass(frozen=True)
class EvaluationRows:
    """What is evaluated.

    Attributes:
        names: Names of the tasks.
        rows: The rows.
    """

    names: tuple[str, ...]
    rows: tuple[EvaluationRow, ...]

    def ids(self) -> dict[str, list[str]]:
        """The rows' ids by task."""
        return {
            name: [row.id for row in self.rows if row.task == task]
            for task, name in enumerate(self.names)
        }


def choose_rows(
    file: RowFile,
    dataset: Any,
    order: Any,
    *,
    budget: int,
    seed: int,
    answers: Tokenize | None = None,
) -> EvaluationRows:
    """Choose rows of each task, evenly over its labels, and take Axolotl's tokens of them.

    Args:
        file: ``data/validation.jsonl``.
        dataset: Axolotl's tokenised form of it.
        order: The file's row of each row of ``dataset``, from :func:`multitask.callbacks.align`.
        budget: Most rows of a task.
        seed: Seeds the choice.
        answers: Gives labels of the answer alone, where training learns prompts too.
    """
    rows = []
    for task in range(len(file.names)):
        places = [place for place, number in enumerate(order) if file.tasks[number] == task]
        read = [file.row(int(order[place])) for place in places]
        # Long answers are all different, so they are no strata.
        labels = [gold(row) if "label" in row or "choices" in row else "" for row in read]
        for chosen in stratified(labels, budget, seed=seed + task):
            tokens = dataset[places[chosen]]
            labels_of = tokens["labels"] if answers is None else answers(read[chosen])[1]
            row = EvaluationRow(task, read[chosen]["id"], tokens["input_ids"], labels_of)
            if any(label != IGNORED for label in row.labels):
                rows.append(row)
    return EvaluationRows(file.names, tuple(rows))


def plan_batches(
    rows: Sequence[EvaluationRow], *, tokens: int, logits: int, whole: bool
) -> list[list[int]]:
    """Put rows of like length together.

    Args:
        rows: The rows.
        tokens: Most tokens of a batch, padding included.
        logits: Most rows times columns with logits.
        whole: Whether the model gives logits at every column.

    Returns:
        Row numbers by batch, the longest first: what does not fit fails at once.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    batches: list[list[int]] = []
    width = start = 0
    for number in order:
        row = rows[number]
        length, first = len(row.input_ids), 0 if whole else row.first
        if batches and batches[-1]:
            count, start = len(batches[-1]) + 1, min(start, first)
            if count * width <= tokens and count * (width - start) <= logits:
                batches[-1].append(number)
                continue
        batches.append([number])
        width, start = length, first
    return batches


def answer_sums(logits: Any, targets: Any, tasks: Any, count: int) -> Any:
    """Sum what is known of answers, by task.

    Args:
        logits: Shape (rows, columns, vocabulary).
        targets: The token that each column predicts, -100 for none, shape (rows, columns).
        tasks: The task of each row, shape (rows,); a task outside of 0 to ``count - 1`` counts
            for nothing.
        count: How many tasks there are.

    Returns:
        Shape (count, 5), float64: negative log-likelihood in nats, tokens, tokens that are the
        most probable ones, rows whose tokens all are, rows.
    """
    import torch
    from torch.nn import functional

    asked = targets != IGNORED
    chosen, wanted = logits[asked].float(), targets[asked]
    losses = functional.cross_entropy(chosen, wanted, reduction="none").double()
    wrong = (chosen.argmax(-1) != wanted).double()
    row = asked.nonzero()[:, 0]
    by_row = torch.zeros(len(tasks), 3, dtype=torch.float64, device=logits.device)
    by_row.index_add_(0, row, torch.stack([losses, torch.ones_like(losses), wrong], dim=1))
    loss, tokens, misses = by_row.unbind(1)
    answered = tokens > 0
    exact = answered & (misses == 0)
    columns = torch.stack([loss, tokens, tokens - misses, exact.double(), answered.double()], dim=1)
    sums = torch.zeros(count + 1, 5, dtype=torch.float64, device=logits.device)
    sums.index_add_(0, tasks.clamp(min=-1) % (count + 1), columns)
    return sums[:count]


class TaskEvaluator:
    """Evaluates a model on fixed rows of each task."""

    def __init__(self, rows: EvaluationRows, settings: PluginSettings, *, tokens: int) -> None:
        """Evaluate ``rows``.

        Args:
            rows: From :func:`choose_rows`.
            settings: The rule for the score.
            tokens: Most tokens of a batch.
        """
        self.rows = rows
        self.latest: dict[str, dict[str, float]] = {}
        self._settings = settings
        self._tokens = tokens
        self._seconds = 0.0
        self._began = time.perf_counter()

    def evaluate(self, trainer: Any, *, at_save: bool) -> dict[str, float]:
        """Evaluate the trainer's model; every process calls this at the same step.

        Args:
            trainer: The trainer.
            at_save: Whether a checkpoint is written at this step, so that a score counts.

        Returns:
            ``eval_TASK/loss``, ``/token_accuracy``, ``/exact_match`` and ``/rows`` of each task,
            ``eval_macro/...`` and ``eval_worst/...`` over them, ``eval_loss`` over all tokens,
            ``eval_seconds``, ``eval_share`` of the time since the start, and ``eval_score`` at a
            save. The same numbers in every process.
        """
        start = time.perf_counter()
        sums = self._sums(trainer).tolist()
        now = time.perf_counter()
        self._seconds += now - start
        self.latest = {
            name: task_metrics(*values)
            for name, values in zip(self.rows.names, sums, strict=True)
            if values[4] > 0
        }
        metrics = flat_metrics(self.latest)
        total = [sum(column) for column in zip(*sums, strict=True)]
        metrics["eval_loss"] = total[0] / total[1]
        metrics["eval_seconds"] = round(now - start, 4)
        metrics["eval_share"] = round(self._seconds / max(now - self._began, 1e-9), 4)
        if at_save:
            spec = self._settings.evaluation
            values = {name: found[spec.metric] for name, found in self.latest.items()}
            metrics[SCORE] = score(values, spec)
        return metrics

    def restart_clock(self) -> None:
        """Measure shares of the time from now on."""
        self._seconds, self._began = 0.0, time.perf_counter()

    def _sums(self, trainer: Any) -> Any:
        import torch

        model, accelerator = trainer.model, trainer.accelerator
        base = causal_model(accelerator.unwrap_model(model))
        selects = takes_columns(base)
        vocabulary = int(base.config.get_text_config().vocab_size)
        batches = plan_batches(
            self.rows.rows,
            tokens=self._tokens,
            logits=max(1, _LOGITS // vocabulary),
            whole=not selects,
        )
        world, rank = accelerator.num_processes, accelerator.process_index
        was_training = model.training
        model.eval()
        if callable(getattr(trainer.optimizer, "eval", None)):
            trainer.optimizer.eval()  # schedule-free optimizers train with other weights
        names = len(self.rows.names)
        sums = torch.zeros(names, 5, dtype=torch.float64, device=accelerator.device)
        with torch.no_grad():
            for place in range(0, len(batches), world):
                mine = place + rank
                # Out of batches, a process repeats one that counts for nothing.
                batch = batches[min(mine, len(batches) - 1)]
                ids, targets, tasks = self._tensors(batch, trainer, counts=mine < len(batches))
                sums += _forward(model, ids, targets, tasks, names, selects=selects)
        if was_training:
            model.train()
            if callable(getattr(trainer.optimizer, "train", None)):
                trainer.optimizer.train()
        return accelerator.reduce(sums, reduction="sum")

    def _tensors(self, batch: Sequence[int], trainer: Any, *, counts: bool) -> tuple[Any, ...]:
        """Tokens and the token that each column predicts, padded on the right."""
        import torch

        rows = [self.rows.rows[number] for number in batch]
        width = max(len(row.input_ids) for row in rows)
        pad = trainer.processing_class.pad_token_id or 0
        ids = torch.full((len(rows), width), pad)
        targets = torch.full((len(rows), width), IGNORED)
        mask = torch.zeros((len(rows), width), dtype=torch.int64)
        for place, row in enumerate(rows):
            length = len(row.input_ids)
            ids[place, :length] = torch.as_tensor(row.input_ids)
            mask[place, :length] = 1
            targets[place, : length - 1] = torch.as_tensor(row.labels)[1:]
        tasks = torch.tensor([row.task if counts else -1 for row in rows])
        device = trainer.accelerator.device
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        return inputs, targets.to(device), tasks.to(device)


def _forward(
    model: Any, inputs: Any, targets: Any, tasks: Any, names: int, *, selects: bool
) -> Any:
    if selects:
        columns = (targets != IGNORED).any(0).nonzero().flatten()
        logits = model(**inputs, use_cache=False, logits_to_keep=columns).logits
        targets = targets[:, columns]
    else:
        logits = model(**inputs, use_cache=False).logits
    return answer_sums(logits, targets, tasks, names)


def task_metrics(
    loss: float, tokens: float, right: float, exact: float, rows: float
) -> dict[str, float]:
    """Turn the sums of :func:`answer_sums` into a task's metrics; the loss is per token."""
    return {
        "loss": loss / tokens,
        "token_accuracy": right / tokens,
        "exact_match": exact / rows,
        "rows": rows,
    }


def flat_metrics(tasks: dict[str, dict[str, float]]) -> dict[str, float]:
    """Name each task's metrics for the trainer, with mean and worst value over tasks."""
    metrics = {
        f"eval_{task}/{name}": value
        for task, values in tasks.items()
        for name, value in values.items()
    }
    for name, worst in (("loss", max), ("token_accuracy", min), ("exact_match", min)):
        values = [found[name] for found in tasks.values()]
        metrics[f"eval_macro/{name}"] = sum(values) / len(values)
        metrics[f"eval_worst/{name}"] = worst(values)
    return metrics


def build_evaluator(
    cfg: Any, trainer: Any, file: RowFile, settings: PluginSettings
) -> TaskEvaluator:
    """Choose the rows of a training's evaluations.

    Args:
        cfg: Axolotl's configuration.
        trainer: The trainer, with Axolotl's tokenised validation rows as ``eval_dataset``.
        file: ``data/validation.jsonl``.
        settings: The plugin's section.

    Raises:
        MultitaskError: The validation rows cannot be told apart by task.
    """
    dataset = trainer.eval_dataset
    order = align(
        file,
        dataset,
        axolotl_tokenizer(cfg, cfg.test_datasets[0], trainer.processing_class),
        longest=cfg.eval_sequence_len or cfg.sequence_len,
        shuffle_seed=shuffle_seed(cfg),
        truncated=cfg.excess_length_strategy == "truncate",
    )
    budget = row_budget(
        settings.evaluation.rows_per_task,
        share=settings.evaluation.share,
        trained_rows=_trained_rows(cfg, trainer),
        evaluations=_evaluations(trainer.args, at_start=settings.evaluation.at_start),
        tasks=len(file.names),
    )
    answers = None
    if cfg.train_on_inputs:
        plain = type(cfg)({**cfg, "train_on_inputs": False})
        answers = axolotl_tokenizer(plain, cfg.test_datasets[0], trainer.processing_class)
    rows = choose_rows(file, dataset, order, budget=budget, seed=settings.seed, answers=answers)
    if not rows.rows:
        raise MultitaskError(
            "no validation row fits into a sequence, so no task can be evaluated",
            where=file.path,
            fix="raise `sequence_len`, or set `evaluation: {rows_per_task: 0}`",
        )
    return TaskEvaluator(rows, settings, tokens=cfg.micro_batch_size * cfg.sequence_len)


def shuffle_seed(cfg: Any) -> int | None:
    """The seed that Axolotl shuffles a single dataset with; None where it does not."""
    shuffles = cfg.shuffle_merged_datasets and not cfg.curriculum_sampling
    return int(cfg.seed) if shuffles else None


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


def _evaluations(args: Any, *, at_start: bool) -> int:
    """How many evaluations a training has: at each save, and at the start."""
    if args.save_strategy == "steps" and args.max_steps > 0:
        steps = args.save_steps if args.save_steps >= 1 else args.save_steps * args.max_steps
        saves = -(-args.max_steps // max(1, round(steps)))
    else:
        saves = max(1, round(args.num_train_epochs))
    return int(saves) + at_start
