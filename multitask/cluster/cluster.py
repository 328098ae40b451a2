"""The machines a run is built for."""

from __future__ import annotations

from dataclasses import dataclass

from multitask.resources import load_config


@dataclass(frozen=True)
class Cluster:
    """Nodes with GPUs of one kind, as in ``configs/clusters``.

    Attributes:
        name: The file's name.
        description: One line for people.
        nodes: Machines.
        gpus_per_node: GPUs in each; 0 means training on the CPU.
        gpu: The GPU's name.
        memory_gb: Memory of one GPU in GB.
        compute_capability: As CUDA names it, ``sm_80`` for A100.
        max_micro_batch: Most sequences per GPU and forward pass.
    """

    name: str
    description: str
    nodes: int
    gpus_per_node: int
    gpu: str | None
    memory_gb: float | None
    compute_capability: str | None
    max_micro_batch: int

    @property
    def on_cpu(self) -> bool:
        """Whether the run trains without GPUs."""
        return self.gpus_per_node == 0

    @property
    def world_size(self) -> int:
        """Processes that train together: one per GPU, one on a CPU."""
        return max(1, self.nodes * self.gpus_per_node)


def load_cluster(name: str) -> Cluster:
    """Read a shipped cluster.

    Raises:
        InputError: There is none of that name.
    """
    return Cluster(name=name, **load_config("clusters", name, key="cluster"))
