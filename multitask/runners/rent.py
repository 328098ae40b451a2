"""Files with which dstack and SkyPilot rent a run's cluster, train it and end the rental.

Nothing here rents: the engines do, with their own prices, questions and limits. All of them start
the same command on every node, ``multitask job`` (:mod:`multitask.training.job`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from multitask import __version__
from multitask.cluster import Cluster
from multitask.errors import InputError, did_you_mean
from multitask.planning.setup import Setup
from multitask.runners import runner_for

VOLUME = "/workspace/data"
"""Where the volume is mounted; at ``/workspace`` it would hide the image's environment."""
BROUGHT = "/multitask/run"
"""Where the engines put the run's files on every node."""

# An estimate may be off, and a price may rise; an engine that stops at the limit saves first.
_HOURS_MARGIN, _MORE_HOURS = 2.0, 1.0
_PRICE_MARGIN = 1.5
_UNKNOWN_HOURS = 24
_SHM_GB = 16
# dstack has metrics of the last hour alone (DSTACK_SERVER_METRICS_RUNNING_TTL_SECONDS).
_IDLE = "1h"
_NO_IMAGE = f"docker.io/YOUR-NAME/multitask:{__version__}"


class Gpu(NamedTuple):
    """A kind of GPU in the engines' words.

    Attributes:
        name: dstack's name, which has no memory in it.
        memory_gb: Memory of one.
        sky: SkyPilot's name.
        on_runpod: Whether RunPod has it.
    """

    name: str
    memory_gb: int
    sky: str
    on_runpod: bool


GPUS = (
    Gpu("A100", 40, "A100", False),
    Gpu("A100", 80, "A100-80GB", True),
    Gpu("H100", 80, "H100", True),
    Gpu("H200", 141, "H200", True),
    Gpu("B200", 180, "B200", True),
    Gpu("A10", 24, "A10", False),
    Gpu("A10G", 24, "A10G", False),
    Gpu("A40", 48, "A40", True),
    Gpu("A5000", 24, "RTXA5000", True),
    Gpu("A6000", 48, "RTXA6000", True),
    Gpu("L4", 24, "L4", True),
    Gpu("L40", 48, "L40", True),
    Gpu("L40S", 48, "L40S", True),
    Gpu("RTX3090", 24, "RTX3090", True),
    Gpu("RTX4090", 24, "RTX4090", True),
    Gpu("RTX5090", 32, "RTX5090", True),
    Gpu("RTX6000Ada", 48, "RTX6000-Ada", True),
    Gpu("T4", 16, "T4", False),
    Gpu("V100", 16, "V100", False),
    Gpu("V100", 32, "V100-32GB", False),
)


def find_gpu(cluster: Cluster) -> Gpu | None:
    """The engines' words for a cluster's GPUs.

    Returns:
        None where nobody rents it: without GPUs, or a GPU of one's own that no engine knows.

    Raises:
        InputError: The cluster has a price, so it is rented, and no engine knows its GPU.
    """
    if cluster.gpu is None or cluster.memory_gb is None:
        return None
    name = _plain(cluster.gpu)
    same = [gpu for gpu in GPUS if gpu.name.upper() == name]
    for gpu in same:
        if abs(gpu.memory_gb - cluster.memory_gb) <= 1:
            return gpu
    if cluster.price is None:
        return None
    own = "; a cluster of your own, which nobody rents out, has no `price`"
    if same:
        sizes = " or ".join(str(gpu.memory_gb) for gpu in same)
        raise InputError(
            f"{cluster.gpu} with {cluster.memory_gb:g} GB cannot be rented",
            where=f"cluster {cluster.name!r}: key 'memory_gb'",
            fix=f"give {sizes}{own}",
        )
    raise InputError(
        f"{cluster.gpu!r} is no GPU that dstack and SkyPilot know",
        where=f"cluster {cluster.name!r}: key 'gpu'",
        fix=did_you_mean(name, {gpu.name for gpu in GPUS}) + own,
    )


def _plain(name: str) -> str:
    """``NVIDIA A100-SXM4-80GB`` without maker, form and memory: ``A100``."""
    words = re.split(r"[\s_-]+", name.upper())
    form = re.compile(r"NVIDIA|TESLA|GEFORCE|SXM\d*|PCIE|HBM\w*|\d+GB")
    return "".join(word for word in words if not form.fullmatch(word))


@dataclass(frozen=True)
class Rental:
    """What the engines' files are made from.

    Attributes:
        setup: The run.
        gpu: Its GPUs in the engines' words.
        entries: Names of the run's files and folders at its top, which go along.
        folder: The run's folder on the volume, under ``runs``.
    """

    setup: Setup
    gpu: Gpu
    entries: Sequence[str]
    folder: str

    @property
    def name(self) -> str:
        """A name that dstack and SkyPilot accept: a letter, then up to 39 more, digits and -."""
        text = re.sub(r"[^a-z0-9]+", "-", self.setup.spec.name.lower()).strip("-")
        named = text if text[:1].isalpha() and len(text) > 1 else f"run-{text}"
        return named[:30].strip("-")

    @property
    def variables(self) -> Mapping[str, str]:
        """What the engine is started with."""
        return runner_for(self.setup.model).variables

    @property
    def root(self) -> str:
        """The run directory on the volume."""
        return f"{VOLUME}/runs/{self.folder}"

    @property
    def image(self) -> str:
        """The image, or a name that no registry accepts."""
        return self.setup.spec.image or _NO_IMAGE

    @property
    def on_runpod(self) -> bool:
        """Whether RunPod rents this shape: any pod, and clusters of nodes with 8 GPUs each."""
        cluster = self.setup.cluster
        return self.gpu.on_runpod and (cluster.nodes == 1 or cluster.gpus_per_node == 8)

    @property
    def hours(self) -> int:
        """Hours after which the engine stops the run."""
        estimate = self.setup.estimate
        if estimate is None:
            return _UNKNOWN_HOURS
        return math.ceil(_HOURS_MARGIN * estimate.hours + _MORE_HOURS)

    @property
    def node_price(self) -> float | None:
        """Most US dollars for a node and hour."""
        price, cluster = self.setup.cluster.price, self.setup.cluster
        if price is None or not price.usd_per_gpu_hour:
            return None
        return round(_PRICE_MARGIN * price.usd_per_gpu_hour * cluster.gpus_per_node, 2)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of variables with logins that the run needs; their values are never written."""
        spec = self.setup.spec
        hub = spec.hub is not None or bool(self.setup.model.gated)
        return ("HF_TOKEN",) * hub + ("WANDB_API_KEY",) * (spec.tracking.wandb is not None)

    @property
    def volume_gb(self) -> int:
        """Room for the model and what is kept of it."""
        estimate = self.setup.estimate
        return 500 if estimate is None else max(100, 10 * math.ceil(estimate.disk_gb / 8))

    @property
    def command(self) -> str:
        """What every node runs, in a bash that reads the image's environment."""
        return f"bash -c 'multitask job {self.root} --from {BROUGHT}'"

    @property
    def most(self) -> str:
        """The most that a start costs, in words."""
        if self.node_price is None:
            return f"{self.hours} h of your cluster, whose price nobody has told"
        nodes = self.setup.cluster.nodes
        usd = self.hours * self.node_price * nodes
        machines = "1 node" if nodes == 1 else f"{nodes} nodes"
        return f"${usd:,.2f} ({self.hours} h, {machines}, ${self.node_price:.2f} an hour each)"


def run_folder(root: Path, name: str) -> str:
    """A run's folder on the volume: its name with a hash of its files, so that no two share one."""
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(root)}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('.-') or 'run'}-{digest.hexdigest()[:8]}"


def rental_files(setup: Setup, root: Path) -> dict[str, str]:
    """Write the engines' files for a run.

    Args:
        setup: The run.
        root: Its directory with everything else in it.

    Returns:
        File names in ``RUN/launch`` with their contents; empty where nobody rents the cluster.

    Raises:
        InputError: The cluster is a rented one, and no engine knows its GPU.
    """
    gpu = find_gpu(setup.cluster)
    if gpu is None:
        return {}
    entries = sorted(path.name for path in root.iterdir())
    rental = Rental(setup, gpu, entries, run_folder(root, setup.spec.name))
    several = setup.cluster.nodes > 1
    files = {
        "dstack.yml": _dstack(rental),
        "dstack-fleet.yml": _dstack_fleet(rental, rental.name, setup.cluster.nodes),
        "sky.yml": _sky(rental),
    }
    if rental.on_runpod:
        files["dstack-volume.yml"] = _dstack_volume(rental)
        files["dstack-fetch.yml"] = _dstack_fetch(rental)
        if several:
            fleet = _dstack_fleet(rental, f"{rental.name}-fetch", 1)
            files["dstack-fetch-fleet.yml"] = fleet
    return files


def write_rental_files(setup: Setup, root: Path) -> dict[str, str]:
    """Do as :func:`rental_files`, and keep the engines from leaving files of the run out.

    Both leave out what a ``.gitignore`` names, also one above the run: ``runs/`` or ``*.jsonl``.
    dstack takes ``.dstackignore`` before it, and SkyPilot ``.skyignore`` of the same folder.

    Raises:
        InputError: The cluster is a rented one, and no engine knows its GPU.
    """
    files = rental_files(setup, root)
    if files:
        for folder in [path for path in root.iterdir() if path.is_dir()]:
            (folder / ".skyignore").touch()
        (root / ".dstackignore").write_text("!**\n", encoding="utf-8")
    return files


def _dstack(rental: Rental) -> str:
    cluster, gpu = rental.setup.cluster, rental.gpu
    several = cluster.nodes > 1
    keys: dict[str, Any] = {"type": "task", "name": rental.name}
    if several:
        keys["nodes"] = cluster.nodes
    keys |= _backends(rental)
    keys["image"] = rental.image
    if not rental.on_runpod:
        keys["privileged"] = True
    # No `shell: bash`: dstack would start it interactive, and the image's .bashrc starts tmux then.
    keys["env"] = [*(f"{k}={v}" for k, v in rental.variables.items()), *_needed(rental)]
    keys["files"] = [f"../{entry}:{BROUGHT}/{entry}" for entry in rental.entries]
    resources = {
        "gpu": f"{gpu.name}:{gpu.memory_gb}GB:{cluster.gpus_per_node}",
        "shm_size": f"{_SHM_GB}GB",
    }
    if rental.setup.topology.cpu_offload and cluster.host_memory_gb is not None:
        resources["memory"] = f"{cluster.host_memory_gb:g}GB.."
    keys["resources"] = resources
    if rental.on_runpod:
        keys["volumes"] = [{"name": rental.name, "path": VOLUME}]
    # What failed by its own decision would fail again, and dstack would pay for it without end: it
    # bounds neither the tries nor their sum. Whoever was killed by a signal (128 and more) goes on.
    again = f"{rental.command} || [ $? -lt 128 ]"
    keys["commands"] = [*([] if rental.on_runpod else [_MOUNT]), again]
    if several:
        keys |= {"startup_order": "master-first", "stop_criteria": "master-done"}
    keys["retry"] = {"on_events": ["no-capacity", "interruption", "error"], "duration": "4h"}
    keys |= {"max_duration": f"{rental.hours}h", "stop_duration": "15m"}
    if rental.node_price is not None:
        keys["max_price"] = rental.node_price
    keys["utilization_policy"] = {"min_gpu_utilization": 5, "time_window": _IDLE}
    once = ["dstack-fleet.yml", *(["dstack-volume.yml"] if rental.on_runpod else [])]
    lines = [
        f"Rents {cluster.description} with dstack, trains, evaluates and ends the rental.",
        "In this run's folder (dstack shows prices and asks):",
        *(f"  once:    {_apply(name)}" for name in once),
        f"  start:   {_apply('dstack.yml')}",
        f"  stop:    dstack stop {rental.name}            (saves a checkpoint; start goes on)",
        *_fetch_lines(rental),
        f"It costs at most {rental.most} each time it is started. max_price is of one node.",
        "A machine that is lost is replaced, and the hours count anew from its checkpoint. A",
        "failure that would come again (exit codes below 128) ends the run: see `dstack logs`.",
        "The limits are the server's to keep: run `dstack server` where it stays on, with",
        "DSTACK_SERVER_CODE_UPLOAD_LIMIT=0, since the run's data goes along.",
        *_shape_lines(rental),
        *_image_lines(rental),
    ]
    return _comment(lines) + _dump(keys)


def _sky(rental: Rental) -> str:
    cluster = rental.setup.cluster
    several = cluster.nodes > 1
    resources: dict[str, Any] = {
        "accelerators": f"{rental.gpu.sky}:{cluster.gpus_per_node}",
        "image_id": f"docker:{rental.image}",
        "disk_size": max(256, rental.volume_gb),
    }
    if _is_four_a100(rental):
        resources["any_of"] = [{"infra": "gcp"}, {"infra": "azure"}]
    if rental.node_price is not None:
        resources["max_hourly_cost"] = rental.node_price
    resources["autostop"] = {"idle_minutes": 10, "down": True}
    keys: dict[str, Any] = {"name": rental.name, "num_nodes": cluster.nodes, "resources": resources}
    envs = {**rental.variables, "HF_HUB_CACHE": "/root/.cache/huggingface/hub"}
    mounts: dict[str, Any] = {f"{BROUGHT}/{entry}": entry for entry in rental.entries}
    if several:
        envs["MULTITASK_NFS"] = ""
    else:
        mounts[VOLUME] = {"name": f"multitask-{rental.folder.lower()}", "mode": "MOUNT_CACHED"}
    keys["envs"] = envs
    if rental.secrets:
        keys["secrets"] = dict.fromkeys(rental.secrets)
    keys["file_mounts"] = mounts
    if several:
        keys["setup"] = _MOUNT
    # Ends the run at its limit, as max_duration does: it saves a checkpoint first.
    limit = f"timeout --signal=TERM --kill-after=15m {rental.hours}h"
    keys["run"] = f"{limit} {rental.command}"
    options = "".join(f" --secret {name}" for name in rental.secrets)
    options += " --env MULTITASK_NFS=HOST:/SHARE" if several else ""
    where = (
        "MULTITASK_NFS is a share that all nodes see (Filestore, Azure Files with NFS, ...)."
        if several
        else "The results are in a bucket that SkyPilot makes, of the name in file_mounts."
    )
    lines = [
        f"Rents {cluster.description} with SkyPilot, trains, evaluates and ends the rental.",
        "In this run's folder (SkyPilot shows prices and asks):",
        f"  start:   sky jobs launch{options} launch/sky.yml   (replaces machines that are lost)",
        f"  stop:    sky jobs cancel -n {rental.name}",
        f"  results: {rental.root} on the volume",
        where,
        f"It costs at most {rental.most} each time it is started, and the jobs controller.",
        *_shape_lines(rental),
        *_image_lines(rental),
    ]
    return _comment(lines) + _dump(keys)


# Machines of clouds share no disk by themselves. Of a share's options only locks matter: the run
# needs none of NFS 3, and NFS 4 has its own.
_MOUNT = (
    f"mountpoint -q {VOLUME} || "
    f'{{ mkdir -p {VOLUME} && mount -t nfs -o nolock "$MULTITASK_NFS" {VOLUME}; }}'
)


def _dstack_fleet(rental: Rental, name: str, nodes: int) -> str:
    """The fleet without which dstack rents nothing; several nodes need one of a cluster."""
    keys: dict[str, Any] = {"type": "fleet", "name": name, "nodes": f"0..{nodes}"}
    if nodes > 1:
        keys["placement"] = "cluster"
    keys |= _backends(rental) | {"idle_duration": "5m"}
    lines = [
        f"Lets dstack rent up to {nodes} node{'s' * (nodes > 1)} for runs of this project.",
        "It rents none by itself, and gives back one that idles for five minutes.",
    ]
    return _comment(lines) + _dump(keys)


def _backends(rental: Rental) -> dict[str, Any]:
    if rental.on_runpod:
        return {"backends": ["runpod"]}
    return {"backends": ["gcp", "azure"]} if _is_four_a100(rental) else {}


def _dstack_volume(rental: Rental) -> str:
    keys = {
        "type": "volume",
        "name": rental.name,
        "backend": "runpod",
        "region": "US-KS-2",
        "size": f"{rental.volume_gb}GB",
    }
    gpu = f"{rental.gpu.name}:{rental.gpu.memory_gb}GB:{rental.setup.cluster.gpus_per_node}"
    price = rental.volume_gb * (0.07 if rental.volume_gb < 1000 else 0.05)
    return _comment(
        [
            "The network volume with the run's checkpoints and results. Pods and clusters are",
            "rented where it lies, so `region` must have the GPUs:",
            f"  dstack offer --backend runpod --gpu {gpu}",
            f"It costs about ${price:,.0f} a month until you delete it:",
            f"  dstack volume delete {rental.name}",
        ]
    ) + _dump(keys)


def _dstack_fetch(rental: Rental) -> str:
    keys = {
        "type": "task",
        "name": f"{rental.name}-fetch",
        "backends": ["runpod"],
        "commands": ["sleep 2h"],
        "volumes": [{"name": rental.name, "path": VOLUME}],
        "resources": {"cpu": "2..", "gpu": 0, "disk": "10GB.."},
        "max_duration": "2h",
    }
    return _comment(
        [
            "A machine without GPUs beside the volume, for two hours at most, to fetch results:",
            *(line.replace("fetch:   ", "", 1) for line in _fetch_lines(rental)),
            f"  dstack stop {rental.name}-fetch",
        ]
    ) + _dump(keys)


def _fetch_lines(rental: Rental) -> list[str]:
    if not rental.on_runpod:
        return [f"  fetch:   {rental.root.removeprefix(VOLUME + '/')} on your share"]
    tar = f"ssh {rental.name}-fetch tar -C {rental.root} --exclude='checkpoint-*' -c ."
    several = rental.setup.cluster.nodes > 1
    files = [*(["dstack-fetch-fleet.yml"] if several else []), "dstack-fetch.yml"]
    last = f"  fetch:   {tar} | tar -x   (in another shell)"
    return [*(f"  fetch:   {_apply(file)}" for file in files), last]


def _apply(file: str) -> str:
    return f"dstack apply -f launch/{file}"


def _needed(rental: Rental) -> list[str]:
    return [*rental.secrets, *([] if rental.on_runpod else ["MULTITASK_NFS"])]


def _is_four_a100(rental: Rental) -> bool:
    return rental.gpu.sky == "A100-80GB" and rental.setup.cluster.gpus_per_node == 4


def _shape_lines(rental: Rental) -> list[str]:
    if rental.on_runpod:
        return []
    if not rental.gpu.on_runpod:
        return [f"RunPod does not rent {rental.gpu.name} of {rental.gpu.memory_gb} GB."]
    lines = ["RunPod's clusters have 8 GPUs a node, so it does not rent this shape."]
    if _is_four_a100(rental):
        lines.append(
            "Nodes of 4 x A100 80 GB are a2-ultragpu-4g at GCP and NC96ads_A100_v4 at Azure."
        )
    return lines


def _image_lines(rental: Rental) -> list[str]:
    if rental.setup.spec.image is not None:
        return []
    return [
        "NO IMAGE: nobody publishes one. Build docker/Dockerfile, push it to a registry that the",
        "cloud can read, and give its name by the spec's key `image`, or here.",
    ]


def _comment(lines: Sequence[str]) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _dump(keys: dict[str, Any]) -> str:
    return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=200)
