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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from multitask.callbacks.loss import causal_model, takes_columns
from multitask.callbacks.rows import IGNORED, EvaluationRow, EvaluationRows
from multitask.callbacks.selection import SCORE, score
from multitask.training_spec import PluginSettings

# Bound on logits held at once, in elements: 1 GiB in float32.
_LOGITS = 2**28


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
    batches: list[list[int]] = []
    width = start = end = 0
    for number in sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids)):
        row = rows[number]
        first = 0 if whole else row.first
        if batches:
            count = len(batches[-1]) + 1
            start, end = min(start, first), max(end, len(row.labels))
            if count * width <= tokens and count * (end - start) <= logits:
                batches[-1].append(number)
                continue
        batches.append([number])
        width, start, end = len(row.input_ids), first, len(row.labels)
    return batches


def answer_sums(logits: Any, targets: Any, tasks: Any, count: int) -> Any:
    """Sum what is known of answers, by task.

    Args:
        logits: Shape (rows, columns, vocabulary).
        targets: The token that each column predicts, -100 for none, shape (rows, columns).
        tasks: The task of each row, shape (rows,); -1 counts for nothing.
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
    by_row = torch.zeros(len(tasks), 3, dtype=torch.float64, device=logits.device)
    values = torch.stack([losses, torch.ones_like(losses), wrong], dim=1)
    by_row.index_add_(0, asked.nonzero()[:, 0], values)
    loss, tokens, misses = by_row.unbind(1)
    answered = tokens > 0
    exact = answered & (misses == 0)
    columns = torch.stack([loss, tokens, tokens - misses, exact.double(), answered.double()], dim=1)
    sums = torch.zeros(count + 1, 5, dtype=torch.float64, device=logits.device)
    return sums.index_add_(0, tasks % (count + 1), columns)[:count]


class TaskEvaluator:
    """Evaluates a trainer's model on fixed rows of each task.

    Attributes:
        rows: The rows.
        latest: The metrics of each task at the latest evaluation.
    """

    def __init__(self, rows: EvaluationRows, settings: PluginSettings, *, tokens: int) -> None:
        """Evaluate ``rows`` in batches of at most ``tokens``; ``settings`` has the score's rule."""
        self.rows = rows
        self.latest: dict[str, dict[str, float]] = {}
        self._settings, self._tokens = settings, tokens
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure the evaluations' share of the time from now on."""
        self._seconds, self._began = 0.0, time.perf_counter()

    def evaluate(self, trainer: Any, *, at_save: bool) -> dict[str, float]:
        """Evaluate the trainer's model; every process calls this at the same step.

        Args:
            trainer: A transformers trainer.
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
            name: {
                "loss": loss / tokens,
                "token_accuracy": right / tokens,
                "exact_match": exact / rows,
                "rows": rows,
            }
            for name, (loss, tokens, right, exact, rows) in zip(self.rows.names, sums, strict=True)
            if rows > 0
        }
        metrics = flat_metrics(self.latest)
        metrics["eval_loss"] = sum(found[0] for found in sums) / sum(found[1] for found in sums)
        metrics["eval_seconds"] = round(now - start, 4)
        metrics["eval_share"] = round(self._seconds / max(now - self._began, 1e-9), 4)
        if at_save:
            spec = self._settings.evaluation
            values = {name: found[spec.metric] for name, found in self.latest.items()}
            metrics[SCORE] = score(values, spec)
        return metrics

    def _sums(self, trainer: Any) -> Any:
        import torch

        model, accelerator = trainer.model, trainer.accelerator
        base = causal_model(accelerator.unwrap_model(model))
        selects = takes_columns(base)
        logits = max(1, _LOGITS // int(base.config.get_text_config().vocab_size))
        batches = plan_batches(
            self.rows.rows, tokens=self._tokens, logits=logits, whole=not selects
        )
        names = len(self.rows.names)
        sums = torch.zeros(names, 5, dtype=torch.float64, device=accelerator.device)
        with _evaluating(trainer), torch.no_grad():
            for place in range(0, len(batches), accelerator.num_processes):
                mine = place + accelerator.process_index
                # Out of batches, a process repeats one that counts for nothing.
                rows = [self.rows.rows[i] for i in batches[min(mine, len(batches) - 1)]]
                inputs, targets = _tensors(rows, base, trainer.processing_class.pad_token_id or 0)
                if selects:
                    columns = (targets != IGNORED).any(0).nonzero().flatten()
                    targets = targets[:, columns]
                    inputs["logits_to_keep"] = columns
                tasks = torch.tensor([r.task if mine < len(batches) else -1 for r in rows])
                inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
                found = model(**inputs, use_cache=False).logits
                sums += answer_sums(found, targets.to(found.device), tasks.to(found.device), names)
        return accelerator.reduce(sums, reduction="sum")


@contextmanager
def _evaluating(trainer: Any) -> Iterator[None]:
    """The model, and an optimizer that trains with other weights (schedule-free), evaluate."""
    modes = [trainer.model] if trainer.model.training else []
    trainer.model.eval()
    if callable(getattr(trainer.optimizer, "eval", None)):
        trainer.optimizer.eval()
        modes += [trainer.optimizer] if modes else []
    yield
    for one in modes:
        one.train()


def _tensors(rows: Sequence[EvaluationRow], base: Any, pad: int) -> tuple[dict[str, Any], Any]:
    """A model's inputs, padded on the right, and the token that each of its columns predicts."""
    import torch

    def padded(values: Sequence[Sequence[int]], filler: int) -> Any:
        tensors = [torch.as_tensor(one) for one in values]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=filler)

    inputs = {
        "input_ids": padded([row.input_ids for row in rows], pad),
        "attention_mask": padded([[1] * len(row.input_ids) for row in rows], 0),
    }
    labels = padded([row.labels for row in rows], IGNORED)
    if base.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = base.prepare_decoder_input_ids_from_labels(labels)
        return inputs, labels
    return inputs, torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def flat_metrics(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
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
