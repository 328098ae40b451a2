"""Everything that is known of RunPod's service: paths, fields, GPU ids, limits, in one place.

Source: RunPod's REST API v2, OpenAPI document ``api-reference-v2/openapi.json`` and the pages
beside it in github.com/runpod/docs at commit a900806e (20 August 2026), unless a line says
otherwise. Version 2 is called beta there, so every answer is checked: one that lacks a field we
need is a :class:`~multitask.errors.MultitaskError` that names the endpoint and the field.

What the documents do not say, and what is done about it:

- whether pods are billed while they are provisioned: taken as yes;
- an idempotency key for creating: there is none, so a resource is looked up by its name before
  it is created again;
- prices of clusters: the catalogue has pods' prices, and billing knows a networking part for
  clusters. The rate of each pod (``cost``) is read as soon as it exists and compared;
- whether the key that RunPod puts into a pod may delete the pod's cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from multitask.errors import MultitaskError

DATE: Final = "2026-08-20"
"""When the documents were read."""

# --- where

BASE_URL: Final = "https://api.runpod.io/v2"
URL_ENV: Final = "MULTITASK_API_URL"
"""Variable with another base, for tests."""

KEY_ENV: Final = "RUNPOD_API_KEY"
KEY_PAGE: Final = "https://www.console.runpod.io/user/settings"
CONSOLE: Final = "https://www.console.runpod.io"

PROXY_URL: Final = "https://{pod}-{port}.proxy.runpod.net"
"""A pod's HTTP port from outside (pods/configuration/expose-ports): HTTPS only, and a request ends
after 100 s. Cloudflare, which is in front, cuts bodies over 100 MB."""
PROXY_ENV: Final = "MULTITASK_PROXY_URL"
"""Variable with another form of it, for tests."""

PODS: Final = "/pods"
CLUSTERS: Final = "/clusters"
VOLUMES: Final = "/network-volumes"
GPUS: Final = "/catalog/gpus"

# --- limits

MIN_CLUSTER_PODS: Final = 2
MAX_CLUSTER_PODS: Final = 250
MAX_ENV: Final = 50
"""Environment variables of a pod (pods/templates/environment-variables)."""
DISK_USD_PER_GB_MONTH: Final = 0.10
"""Container disk of a running pod (pods/pricing)."""
VOLUME_USD_PER_GB_MONTH: Final = 0.07
"""Network volume below 1 TB (storage/network-volumes); billed for as long as it exists."""
HOURS_PER_MONTH: Final = 730.0

SECRET: Final = "{{{{ RUNPOD_SECRET_{name} }}}}"  # noqa: S105  # a form, not a secret
"""How a variable refers to a secret of the account (pods/templates/secrets)."""

# --- GPUs (references/gpu-types, generated 2026-02-12): our clusters' names, RunPod's ids

GPU_IDS: Final[Mapping[str, str]] = {
    "A100-SXM4-80GB": "NVIDIA A100-SXM4-80GB",
    "A100-PCIe-80GB": "NVIDIA A100 80GB PCIe",
    "H100-SXM5-80GB": "NVIDIA H100 80GB HBM3",
    "H200-SXM5-141GB": "NVIDIA H200",
    "RTX-4090-24GB": "NVIDIA GeForce RTX 4090",
    "L40S": "NVIDIA L40S",
}

# --- states of a pod (schema PodStatus)

RUNNING: Final = "RUNNING"
DEAD: Final = frozenset({"EXITED", "ERROR", "TERMINATED"})
GONE: Final = "TERMINATED"

Kind = Literal["pod", "cluster"]


@dataclass(frozen=True)
class Pod:
    """A pod, or a node of a cluster (schema Pod).

    Attributes:
        id: RunPod's name of it.
        name: Ours.
        status: One of PROVISIONING, STARTING, RUNNING, EXITED, ERROR, TERMINATED.
        cost: What it costs now, USD per hour; 0 when EXITED or TERMINATED.
        created: Unix time.
        gpus: GPUs in it.
        gpu: RunPod's id of the GPU type; empty for a CPU pod.
        env: Its variables.
        actions: State changes that it takes now.
        cluster: Id of its cluster; None for a pod of its own.
        rank: Its rank in the cluster; None while there is none.
    """

    id: str
    name: str
    status: str
    cost: float
    created: float
    gpus: int
    gpu: str
    env: Mapping[str, str]
    actions: tuple[str, ...]
    cluster: str | None
    rank: int | None


@dataclass(frozen=True)
class ClusterState:
    """A cluster (schema Cluster). It has no status of its own: its pods have.

    Attributes:
        id: RunPod's name of it.
        name: Ours.
        gpu: RunPod's id of the GPU type.
        gpus_per_pod: GPUs in each pod.
        pods: How many pods were asked for.
        provisioned: How many there are.
        by_status: How many of them have each status.
        created: Unix time.
    """

    id: str
    name: str
    gpu: str
    gpus_per_pod: int
    pods: int
    provisioned: int
    by_status: Mapping[str, int]
    created: float


@dataclass(frozen=True)
class Volume:
    """A network volume (schema NetworkVolume).

    Attributes:
        id: RunPod's name of it.
        size_gb: Its size.
        data_center: Where it is; machines that mount it must be there as well.
    """

    id: str
    size_gb: int
    data_center: str


def pod_path(pod: str) -> str:
    """``/pods/{id}``."""
    return f"{PODS}/{pod}"


def cluster_path(cluster: str) -> str:
    """``/clusters/{id}``."""
    return f"{CLUSTERS}/{cluster}"


def cluster_pods_path(cluster: str) -> str:
    """``/clusters/{id}/pods``."""
    return f"{CLUSTERS}/{cluster}/pods"


def container(
    *,
    name: str,
    image: str,
    env: Mapping[str, str],
    disk_gb: int,
    ports: tuple[str, ...],
    data_centers: tuple[str, ...],
    volume: str | None,
    volume_path: str,
) -> dict[str, Any]:
    """The part of a request that pods and clusters share (schema BaseContainerConfig)."""
    body: dict[str, Any] = {
        "name": name,
        "image": image,
        "env": dict(env),
        "disk": disk_gb,
        "ports": list(ports),
        "startSsh": True,
    }
    if data_centers:
        body["dataCenterIds"] = list(data_centers)
    if volume is not None:
        body["mounts"] = {"network": [{"volumeId": volume, "path": volume_path}]}
    return body


def pod_request(
    shared: Mapping[str, Any], gpu: str, gpus: int, min_cuda: str | None
) -> dict[str, Any]:
    """Body of ``POST /pods`` (schema CreatePodRequest)."""
    wanted: dict[str, Any] = {"id": gpu, "count": gpus}
    if min_cuda is not None:
        wanted["minCudaVersion"] = min_cuda
    return {**shared, "cloud": "SECURE", "gpu": wanted}


def cluster_request(shared: Mapping[str, Any], gpu: str, gpus: int, pods: int) -> dict[str, Any]:
    """Body of ``POST /clusters`` (schema CreateClusterRequest)."""
    compute = {"gpuTypeId": gpu, "gpuCountPerPod": gpus, "podCount": pods}
    return {**shared, "type": "TRAINING", "compute": compute}


class Answer:
    """An answer whose fields are taken one by one; what is missing is a clear failure."""

    def __init__(self, endpoint: str, content: Any, path: str = "") -> None:
        """Read ``content``, the JSON of an answer of ``endpoint``."""
        self._endpoint = endpoint
        self._content = content
        self._path = path
        if not isinstance(content, dict):
            raise self._wrong(path or "the answer", "an object")

    def _wrong(self, field: str, wanted: str) -> MultitaskError:
        return MultitaskError(
            f"RunPod's answer has no usable field '{field}' ({wanted} was expected)",
            where=self._endpoint,
            fix=f"the service has changed since {DATE}; look at {CONSOLE} for what is billed, and "
            "update multitask (multitask/runpod/api.py)",
        )

    def _take(self, field: str, kinds: type | tuple[type, ...], wanted: str) -> Any:
        value = self._content.get(field)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise self._wrong(f"{self._path}{field}", wanted)
        return value

    def text(self, field: str) -> str:
        """A text that is not empty."""
        value: str = self._take(field, str, "text")
        if not value:
            raise self._wrong(f"{self._path}{field}", "text")
        return value

    def whole(self, field: str) -> int:
        """A whole number."""
        value: int = self._take(field, int, "a whole number")
        return value

    def number(self, field: str) -> float:
        """A number."""
        return float(self._take(field, (int, float), "a number"))

    def time(self, field: str) -> float:
        """A date and time, as Unix time."""
        text = self.text(field)
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            raise self._wrong(f"{self._path}{field}", "a date and time") from None

    def inner(self, field: str) -> Answer:
        """An object in it."""
        return Answer(self._endpoint, self._take(field, dict, "an object"), f"{field}.")

    def optional(self, field: str) -> Any:
        """What is there; None when nothing is."""
        return self._content.get(field)

    def rows(self, field: str) -> list[Answer]:
        """A list of objects."""
        items = self._take(field, list, "a list")
        return [Answer(self._endpoint, row, f"{field}[{i}].") for i, row in enumerate(items)]


def read_pod(answer: Answer) -> Pod:
    """Schema Pod."""
    gpu = answer.inner("gpu") if answer.optional("gpu") is not None else None
    member = answer.inner("cluster") if answer.optional("cluster") is not None else None
    rank = None if member is None else member.optional("rank")
    env = answer.optional("env")
    return Pod(
        id=answer.text("id"),
        name=answer.text("name"),
        status=answer.text("status"),
        cost=answer.number("cost"),
        created=answer.time("createdAt"),
        gpus=0 if gpu is None else int(gpu.optional("count") or 1),
        gpu="" if gpu is None else gpu.text("id"),
        env=env if isinstance(env, dict) else {},
        actions=tuple(answer.optional("actions") or ()),
        cluster=None if member is None else member.text("id"),
        rank=rank if isinstance(rank, int) else None,
    )


def read_cluster(answer: Answer) -> ClusterState:
    """Schema Cluster."""
    compute, pods = answer.inner("compute"), answer.inner("pods")
    statuses = pods.optional("byStatus")
    return ClusterState(
        id=answer.text("id"),
        name=answer.text("name"),
        gpu=compute.text("gpuTypeId"),
        gpus_per_pod=compute.whole("gpuCountPerPod"),
        pods=compute.whole("podCount"),
        provisioned=pods.whole("total"),
        by_status=statuses if isinstance(statuses, dict) else {},
        created=answer.time("createdAt"),
    )


def read_volume(answer: Answer) -> Volume:
    """Schema NetworkVolume."""
    return Volume(answer.text("id"), answer.whole("size"), answer.text("dataCenter"))


def read_gpu_prices(answer: Answer) -> dict[str, float]:
    """List prices of the secure cloud, USD per GPU and hour, by RunPod's id (schema GpuType)."""
    return {row.text("id"): row.inner("price").number("secure") for row in answer.rows("gpus")}
