"""Recognise samples in training batches, packed or not, by a checksum of their tokens.

A batch holds tokens alone. Every sample of the training set has a checksum in a table; a batch's
samples are found by where positions begin anew, and looked up where the batch lies, so nothing is
waited for. The checksum is multilinear hashing modulo 2^64 (Carter and Wegman 1979; Lemire and
Kaser 2014): a random odd factor per position times the token, summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        factors: The factor of each position, shape (longest,).
        unknown: The number that means no task: how many tasks there are.
    """

    hashes: NDArray[np.int64]
    tasks: NDArray[np.int64]
    factors: NDArray[np.int64]
    unknown: int

    @classmethod
    def build(cls, dataset: Any, tasks: NDArray[np.int64], count: int) -> SampleTable:
        """Read a tokenised dataset.

        Args:
            dataset: Rows with ``input_ids``.
            tasks: The task of each row, from 0 to ``count - 1``.
            count: How many tasks there are.
        """
        import numpy as np

        blocks = list(_tokens(dataset))
        longest = max((int(lengths.max()) for _, lengths in blocks), default=1)
        factors = position_factors(longest)
        parts = [checksums(flat, lengths, factors) for flat, lengths in blocks]
        hashes = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        hashes, tasks = hashes[order], tasks[order].copy()
        same = hashes[1:] == hashes[:-1]
        # A run of equal checksums counts as unknown where its tasks differ anywhere.
        run = np.concatenate([[0], np.cumsum(~same)]) if len(hashes) else np.empty(0, np.int64)
        mixed = np.unique(run[1:][same & (tasks[1:] != tasks[:-1])])
        tasks[np.isin(run, mixed)] = count
        return cls(hashes, tasks, factors, count)


def position_factors(longest: int) -> NDArray[np.int64]:
    """The factors of the first ``longest`` positions; the same on every machine."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(_SEED))
    return generator.integers(-(2**63), 2**63, longest, dtype=np.int64) | 1


def checksums(
    flat: NDArray[np.int64], lengths: NDArray[np.int64], factors: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Checksums of samples that lie one after another; none of them may be empty."""
    import numpy as np

    ends = np.cumsum(lengths)
    starts = ends - lengths
    positions = np.arange(len(flat)) - np.repeat(starts, lengths)
    with np.errstate(over="ignore"):
        sums: NDArray[np.int64] = np.add.reduceat(factors[positions] * (flat + 1), starts)
    return sums


def _tokens(dataset: Any) -> Any:
    """Yield blocks of a dataset's tokens, one after another, with each sample's length."""
    import numpy as np

    columns = dataset.select_columns(["input_ids"]).with_format("arrow")
    for block in columns.iter(batch_size=_ROWS):
        column = block.column("input_ids").combine_chunks()
        lengths = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        yield column.flatten().to_numpy(zero_copy_only=False).astype(np.int64), lengths


class BatchReader:
    """Says which task each token of a batch belongs to, without leaving the device."""

    def __init__(self, table: SampleTable) -> None:
        """Look samples up in ``table``."""
        self._table = table
        self._on: dict[Any, tuple[Any, Any, Any]] = {}

    def tasks_of(self, inputs: Any) -> tuple[Any, Any]:
        """Find the tasks of a batch.

        Args:
            inputs: ``input_ids`` and ``labels`` of shape (rows, length), with ``position_ids``
                that begin anew at each sample where rows are packed, else ``attention_mask``.

        Returns:
            The task of each token, shape (rows, length), and how many supervised samples of each
            task there are, shape (tasks + 1,); the last one counts what is in no table.
        """
        import torch

        ids = inputs["input_ids"]
        hashes, tasks, factors = self._tensors(ids.device)
        positions, inside = _positions(inputs)
        begins = positions == 0 if "position_ids" in inputs else torch.zeros_like(ids) > 0
        begins[:, 0] = True
        sample = begins.flatten().cumsum(0) - 1
        terms = factors[positions.clamp(0, len(factors) - 1)] * (ids + 1) * inside
        zeros = torch.zeros(ids.numel(), dtype=torch.int64, device=ids.device)
        sums = zeros.index_add(0, sample, terms.flatten())
        place = torch.searchsorted(hashes, sums).clamp(max=len(hashes) - 1)
        task = torch.where(hashes[place] == sums, tasks[place], self._table.unknown)
        supervised = zeros.index_add(0, sample, (inputs["labels"] != -100).long().flatten()) > 0
        rows = torch.zeros(self._table.unknown + 1, dtype=torch.int64, device=ids.device)
        return task[sample].view_as(ids), rows.index_add(0, task, supervised.long())

    def _tensors(self, device: Any) -> tuple[Any, Any, Any]:
        import torch

        if device not in self._on:
            table = self._table
            arrays = (table.hashes, table.tasks, table.factors)
            hashes, tasks, factors = (torch.from_numpy(array).to(device) for array in arrays)
            self._on[device] = hashes, tasks, factors
        return self._on[device]


def _positions(inputs: Any) -> tuple[Any, Any]:
    """Each token's place in its sample, and whether it belongs to one."""
    import torch

    ids = inputs["input_ids"]
    if "position_ids" in inputs:
        return inputs["position_ids"], torch.ones_like(ids)
    mask = inputs.get("attention_mask")
    inside = torch.ones_like(ids) if mask is None else (mask != 0).long()
    return inside.cumsum(-1) - 1, inside
