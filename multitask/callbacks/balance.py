"""Balance between tasks: what the training batches really held, and how tasks are weighed.

A batch holds tokens alone, packed or not. Every sample of the training set has a checksum in a
table; a batch's samples are found by where positions begin anew, and looked up where the batch
lies, so nothing is waited for. The checksum is multilinear hashing modulo 2^64 (Carter and Wegman
1979; Lemire and Kaser 2014): a random odd factor per position times the token, summed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from multitask.callbacks.loss import PlainLoss, answer_loss
from multitask.callbacks.rows import IGNORED
from multitask.training_spec import BalanceSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SEED = 0x6D756C7469
_ROWS = 1000


@dataclass(frozen=True)
class SampleTable:
    """Checksums of a training set's samples.

    Attributes:
        hashes: Checksums in rising order, shape (samples,).
        tasks: The task of each, as a number; ``unknown`` where two tasks share a checksum.
        factors: The factor of each position, shape (longest,); the same on every machine.
        unknown: The number that means no task: how many tasks there are.
    """

    hashes: NDArray[np.int64]
    tasks: NDArray[np.int64]
    factors: NDArray[np.int64]
    unknown: int
    _on: dict[Any, list[Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def build(cls, dataset: Any, tasks: NDArray[np.int64], count: int) -> SampleTable:
        """Read a tokenised dataset's ``input_ids``; ``tasks`` has each row's, of ``count``."""
        import numpy as np

        blocks = list(_tokens(dataset))
        longest = max((int(lengths.max()) for _, lengths in blocks), default=1)
        generator = np.random.Generator(np.random.PCG64(_SEED))
        factors = generator.integers(-(2**63), 2**63, longest, dtype=np.int64) | 1
        parts = [_checksums(flat, lengths, factors) for flat, lengths in blocks]
        hashes = np.concatenate([np.empty(0, dtype=np.int64), *parts])
        order = np.argsort(hashes, kind="stable")
        hashes, tasks = hashes[order], tasks[order].copy()
        same = hashes[1:] == hashes[:-1]
        # A run of equal checksums counts as unknown where its tasks differ anywhere.
        run = np.concatenate([[0], np.cumsum(~same)]) if len(hashes) else np.empty(0, np.int64)
        mixed = np.unique(run[1:][same & (tasks[1:] != tasks[:-1])])
        tasks[np.isin(run, mixed)] = count
        return cls(hashes, tasks, factors, count)

    def tasks_of(self, inputs: Any) -> tuple[Any, Any]:
        """Find the tasks of a batch, without leaving its device.

        Args:
            inputs: ``input_ids`` and ``labels`` of shape (rows, length), with ``position_ids``
                that begin anew at each sample where rows are packed, else ``attention_mask``.

        Returns:
            The task of each token, shape (rows, length), and how many supervised samples of each
            task there are, shape (tasks + 1,); the last one counts what is in no table.
        """
        import torch

        ids = inputs["input_ids"]
        if ids.device not in self._on:
            arrays = (self.hashes, self.tasks, self.factors)
            self._on[ids.device] = [torch.from_numpy(array).to(ids.device) for array in arrays]
        hashes, tasks, factors = self._on[ids.device]
        positions, inside = _positions(inputs)
        begins = positions == 0 if "position_ids" in inputs else torch.zeros_like(ids) > 0
        begins[:, 0] = True
        sample = begins.flatten().cumsum(0) - 1
        terms = factors[positions.clamp(0, len(factors) - 1)] * (ids + 1) * inside
        zeros = torch.zeros(ids.numel(), dtype=torch.int64, device=ids.device)
        sums = zeros.index_add(0, sample, terms.flatten())
        place = torch.searchsorted(hashes, sums).clamp(max=len(hashes) - 1)
        task = torch.where(hashes[place] == sums, tasks[place], self.unknown)
        asked = (inputs["labels"] != IGNORED).long().flatten()
        supervised = zeros.index_add(0, sample, asked) > 0
        rows = torch.zeros(self.unknown + 1, dtype=torch.int64, device=ids.device)
        return task[sample].view_as(ids), rows.index_add(0, task, supervised.long())


def _checksums(
    flat: NDArray[np.int64], lengths: NDArray[np.int64], factors: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Checksums of samples that lie one after another; none of them may be empty."""
    import numpy as np

    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(flat)) - np.repeat(starts, lengths)
    with np.errstate(over="ignore"):
        sums: NDArray[np.int64] = np.add.reduceat(factors[positions] * (flat + 1), starts)
    return sums


def _tokens(dataset: Any) -> Iterator[Any]:
    """Yield blocks of a dataset's tokens, one after another, with each sample's length."""
    import numpy as np

    columns = dataset.select_columns(["input_ids"]).with_format("arrow")
    for block in columns.iter(batch_size=_ROWS):
        column = block.column("input_ids").combine_chunks()
        lengths = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        yield column.flatten().to_numpy(zero_copy_only=False).astype(np.int64), lengths


def _positions(inputs: Any) -> tuple[Any, Any]:
    """Each token's place in its sample, and whether it belongs to one."""
    import torch

    ids = inputs["input_ids"]
    if "position_ids" in inputs:
        return inputs["position_ids"], torch.ones_like(ids)
    mask = inputs.get("attention_mask")
    inside = torch.ones_like(ids) if mask is None else (mask != 0).long()
    return inside.cumsum(-1) - 1, inside


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
    mean = sum(lags.values()) / max(1, len(lags))
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
        self._table = table
        self._sums: Any = None

    @property
    def public_names(self) -> dict[str, str]:
        """The trainer's keys for this object's metrics, with the names that trackers show."""
        kinds = ("loss", "tokens", "rows", "weight")
        keys = [f"{name}/{kind}" for name in (*self.names, "unknown") for kind in kinds]
        return {key: f"train/{key}" for key in keys}

    def compute_loss(
        self, plain: PlainLoss, model: Any, inputs: Any, items: Any, *, enabled: bool = True
    ) -> tuple[Any, Any]:
        """The loss and the outputs of :func:`answer_loss`, weighed and added to the sums."""
        import torch

        tasks, rows = self._table.tasks_of(inputs)
        targets, tasks, factors = inputs["labels"][:, 1:], tasks[:, 1:], None
        if self.spec.weighs:
            weights = [*(self.weights[name] for name in self.names), 1.0]
            factors = torch.tensor(weights, device=targets.device)[tasks]
        loss, outputs, losses = answer_loss(plain, model, inputs, items, factors, enabled=enabled)
        self._add(targets, tasks, rows, losses)
        return loss, outputs

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
        keys = {name: f"eval/{name}/loss" for name in self.names}
        losses = [{n: entry[k] for n, k in keys.items() if k in entry} for entry in history]
        losses = [found for found in losses if found]
        if losses and self.spec.schedule != "off":
            for name, factor in lagging_weights(losses[-1], losses[0], self.spec).items():
                self.weights[name] = self.spec.loss_weights.get(name, 1.0) * factor


class BalanceCallback(TrainerCallback):
    """Hands a balance's metrics to the trainer's log and to a file, and moves its weights."""

    def __init__(self, trainer: Any, path: Path) -> None:
        """Serve ``trainer.balance``; append to ``path``, one JSON object a line."""
        self._trainer, self._path = trainer, path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Weigh tasks by the evaluations so far, also of a training that is resumed."""
        self._trainer.balance.reweigh(state.log_history)

    on_evaluate = on_train_begin

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
