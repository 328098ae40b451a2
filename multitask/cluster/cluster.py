"""The machines a run is built for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator, model_validator

from multitask.errors import InputError, did_you_mean
from multitask.files import read_mapping
from multitask.resources import load_config
from multitask.task_spec import StrictModel

_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]


class Price(StrictModel):
    """What a GPU costs.

    Attributes:
        usd_per_gpu_hour: US dollars per GPU and hour.
        date: When that was the price.
        source: Who says so.
    """

    usd_per_gpu_hour: Annotated[float, Field(ge=0)]
    date: str
    source: str


class Cluster(StrictModel):
    """Nodes with GPUs of one kind, as in ``configs/clusters`` or a file of the user's.

    Attributes:
        name: The file's name.
        description: One line for people.
        nodes: Machines.
        gpus_per_node: GPUs in each; 0 means training on the CPU.
        gpu: The GPU's name.
        memory_gb: Memory of one GPU in GB.
        compute_capability: As CUDA names it, ``sm_80`` for A100.
        bf16_tflops: Peak of one GPU in 10^12 dense bfloat16 operations per second.
        intra_node_gb_s: Bandwidth between GPUs of a node, GB/s per GPU and direction.
        inter_node_gb_s: Bandwidth between nodes, GB/s per node and direction.
        host_memory_gb: Main memory of a node in GB, for CPU offload.
        price: What it costs; None where nobody bills.
    """

    name: str
    description: str
    nodes: _Count = 1
    gpus_per_node: Annotated[int, Field(ge=0)]
    gpu: str | None = None
    memory_gb: _Positive | None = None
    compute_capability: Annotated[str, Field(pattern=r"^sm_\d+$")] | None = None
    bf16_tflops: _Positive | None = None
    intra_node_gb_s: _Positive | None = None
    inter_node_gb_s: _Positive | None = None
    host_memory_gb: _Positive | None = None
    price: Price | None = None

    @field_validator("name", "description", "gpu")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        """They stand in comments of scripts, where a second line would be a command."""
        if text is not None and not text.isprintable():
            raise ValueError("holds a line break or control character; write it on one line")
        return text

    @model_validator(mode="after")
    def _whole(self) -> Cluster:
        if self.gpus_per_node == 0:
            if self.nodes > 1:
                raise ValueError("training on CPUs uses one node")
            return self
        needed = ["gpu", "memory_gb", "compute_capability", "bf16_tflops"]
        if self.gpus_per_node > 1:
            needed.append("intra_node_gb_s")
        if self.nodes > 1:
            needed.append("inter_node_gb_s")
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            raise ValueError(f"a cluster with GPUs like these needs {', '.join(missing)}")
        return self

    @property
    def on_cpu(self) -> bool:
        """Whether the run trains without GPUs."""
        return self.gpus_per_node == 0

    @property
    def world_size(self) -> int:
        """Processes that train together: one per GPU, one on a CPU."""
        return max(1, self.nodes * self.gpus_per_node)

    @property
    def usd_per_hour(self) -> float | None:
        """Price of all GPUs together for an hour."""
        return None if self.price is None else self.price.usd_per_gpu_hour * self.world_size


def load_cluster(name: str) -> Cluster:
    """Read a shipped cluster, or a file of the user's.

    Args:
        name: A file of ``configs/clusters`` without its suffix, or the path of a YAML file.

    Raises:
        InputError: There is none, or a key in it is wrong.
    """
    if not name.endswith((".yaml", ".yml")):
        return Cluster(name=name, **load_config("clusters", name, key="cluster"))
    path = Path(name)
    content = read_mapping(path, what="a cluster", fix="see configs/clusters for examples")
    try:
        return Cluster.model_validate({"name": path.stem} | content)
    except ValidationError as error:
        raise _explain(error, path) from None


def _explain(error: ValidationError, path: Path) -> InputError:
    issue = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")[0]
    key = ".".join(str(part) for part in issue["loc"])
    if issue["type"] == "extra_forbidden":
        known = Price.model_fields if key.startswith("price.") else Cluster.model_fields
        hint = did_you_mean(key.rsplit(".", 1)[-1], list(known))
        return InputError(f"unknown key '{key}'", where=path, fix=hint)
    message = issue["msg"].removeprefix("Value error, ")
    return InputError(
        f"{message[0].lower()}{message[1:]}", where=f"{path}: key '{key}'" if key else path
    )
