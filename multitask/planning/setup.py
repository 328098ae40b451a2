"""Everything a training engine's files are made from, decided once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from multitask.cluster import Batch, Cluster, Method, Topology
from multitask.data.tokens import Workload
from multitask.estimate import Estimate
from multitask.models import ModelInfo
from multitask.spec import Spec


class SequenceLength(NamedTuple):
    """The length of sequences.

    Attributes:
        tokens: Longest row that is trained on; packed sequences have exactly so many.
        reason: Why, in a clause.
    """

    tokens: int
    reason: str


@dataclass(frozen=True)
class SavePlan:
    """When checkpoints are written.

    Attributes:
        steps: Optimizer steps between saves; below 1 a share of the run.
        reason: How that was found, with the expected loss.
    """

    steps: float
    reason: str


@dataclass(frozen=True)
class Setup:
    """A run's training, decided but not yet written in any engine's words.

    Attributes:
        spec: The user's choices.
        cluster: Where it trains.
        method: Which weights learn.
        model: What is known of the model.
        topology: How its state is sharded.
        batch: How an optimizer step's sequences are spread.
        alpaca: Whether prompts take the Alpaca form.
        packing: Whether several rows share a sequence.
        sequence: How long sequences are, and why.
        recompute: Whether layers are computed again in the backward pass.
        save: When checkpoints are written.
        workload: Rows and tokens; None before the data is read.
        estimate: What it needs and costs; None where the model's sizes are not known.
        unsharded: What it would need under DDP, where it is sharded and would fit; else None.
        warnings: What the user should look at.
    """

    spec: Spec
    cluster: Cluster
    method: Method
    model: ModelInfo
    topology: Topology
    batch: Batch
    alpaca: bool
    packing: bool
    sequence: SequenceLength
    recompute: bool
    save: SavePlan
    workload: Workload | None = None
    estimate: Estimate | None = None
    unsharded: Estimate | None = None
    warnings: tuple[str, ...] = ()

    @property
    def attention(self) -> str:
        """The attention implementation."""
        return self.model.attention_on(flash=not self.cluster.on_cpu)
