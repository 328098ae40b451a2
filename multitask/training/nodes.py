"""Which node this is, in the words of whoever started it: dstack, SkyPilot, RunPod, Slurm, torch.

Every launcher sets variables of its own on every node. :func:`read_nodes` reads them all into one
value, so that the same command starts a node everywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from multitask.cluster import Cluster
from multitask.errors import InputError

DEFAULT_PORT = 29500

_FIRST_PROCESS = Path("/proc/1/environ")
_INTERFACES = Path("/sys/class/net")
# The nodes of a RunPod cluster reach each other over this interface alone; over eth0 they time out.
_RUNPOD_INTERFACE = "ens1"


@dataclass(frozen=True)
class Nodes:
    """A node's place among the nodes that train together.

    Attributes:
        launcher: Who said so.
        nodes: How many there are; None where the launcher does not say.
        rank: Which of them this is, from 0; None where the launcher does not say.
        master: Address of node 0; None where the launcher does not say.
        port: Port of the rendezvous on node 0.
        gpus: GPUs of each node; None where the launcher does not say.
    """

    launcher: str
    nodes: int | None = None
    rank: int | None = None
    master: str | None = None
    port: int = DEFAULT_PORT
    gpus: int | None = None


class _Launcher(NamedTuple):
    """A launcher's variables; for each fact, those that may hold it, the first one set counts."""

    name: str
    sign: str
    nodes: str
    rank: str
    master: str
    port: str
    gpus: str


# Engines before platforms: where dstack rents a RunPod cluster, both have set theirs, and node 0 is
# dstack's. The last one is what people set by hand, and what torchrun sets for its processes.
_LAUNCHERS = (
    _Launcher(
        "dstack", "DSTACK_NODES_NUM", "DSTACK_NODES_NUM", "DSTACK_NODE_RANK",
        "DSTACK_MASTER_NODE_IP", "MASTER_PORT", "DSTACK_GPUS_PER_NODE",
    ),
    _Launcher(
        "SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK",
        "SKYPILOT_NODE_IPS", "MASTER_PORT", "SKYPILOT_NUM_GPUS_PER_NODE",
    ),
    _Launcher(
        "RunPod", "NUM_TRAINERS", "NUM_NODES", "NODE_RANK",
        "MASTER_ADDR PRIMARY_ADDR", "MASTER_PORT PRIMARY_PORT", "NUM_TRAINERS",
    ),
    _Launcher(
        "Slurm", "SLURM_JOB_ID", "SLURM_STEP_NUM_NODES SLURM_JOB_NUM_NODES", "SLURM_NODEID",
        "MASTER_ADDR SLURM_STEP_NODELIST SLURM_JOB_NODELIST", "MASTER_PORT", "SLURM_GPUS_ON_NODE",
    ),
    _Launcher(
        "torchrun", "", "NUM_NODES NNODES PET_NNODES GROUP_WORLD_SIZE",
        "NODE_RANK PET_NODE_RANK GROUP_RANK", "MASTER_ADDR PET_MASTER_ADDR PRIMARY_ADDR",
        "MASTER_PORT PET_MASTER_PORT PRIMARY_PORT", "PET_NPROC_PER_NODE LOCAL_WORLD_SIZE",
    ),
)  # fmt: skip


def read_nodes(environ: Mapping[str, str]) -> Nodes:
    """Read this node's place from the variables of whichever launcher set them.

    Raises:
        InputError: A variable holds what its launcher would never write.
    """
    launcher = next(one for one in _LAUNCHERS if not one.sign or environ.get(one.sign))

    def first(names: str) -> str | None:
        return next((name for name in names.split() if environ.get(name)), None)

    def number(names: str, low: int, high: int = 10**6) -> int | None:
        name = first(names)
        return None if name is None else _whole(name, environ[name], low, high)

    name = first(launcher.master)
    master = None if name is None else _first_host(name, environ[name])
    port = number(launcher.port, 1, 65535)
    if port is None and launcher.name == "Slurm":
        # Jobs that share a node get ports of their own.
        port = 20000 + _whole("SLURM_JOB_ID", environ["SLURM_JOB_ID"], 0, 2**63) % 20000
    return Nodes(
        launcher=launcher.name,
        nodes=number(launcher.nodes, 1),
        rank=number(launcher.rank, 0),
        master=master,
        port=port or DEFAULT_PORT,
        gpus=number(launcher.gpus, 0),
    )


def nodes_for(cluster: Cluster, environ: Mapping[str, str]) -> Nodes:
    """Read this node's place, and check it against the cluster that a run was built for.

    Raises:
        InputError: The launcher started another number of nodes or GPUs than the run needs, or
            the cluster has several nodes and nobody says which this is.
    """
    found = read_nodes(environ)
    if cluster.on_cpu and found.launcher != "torchrun":
        return Nodes("this machine", nodes=1, rank=0)  # of whatever allocation it is a part
    by = f"environment of {found.launcher}"
    another = "build the run for this cluster, or start it on the one it was built for"
    if found.nodes is not None and found.nodes != cluster.nodes:
        raise InputError(
            f"{found.nodes} nodes were started, and this run was built for {cluster.nodes}",
            where=by,
            fix=another,
        )
    if found.gpus is not None and found.gpus != cluster.gpus_per_node and not cluster.on_cpu:
        raise InputError(
            f"this node was given {found.gpus} GPUs, and this run was built for "
            f"{cluster.gpus_per_node} a node",
            where=by,
            fix=another,
        )
    if cluster.nodes > 1 and (found.rank is None or found.master is None):
        raise InputError(
            f"this run is for {cluster.nodes} nodes, and NODE_RANK or MASTER_ADDR is not set",
            where=by,
            fix=f"start it on every node with NODE_RANK=0..{cluster.nodes - 1} and "
            "MASTER_ADDR=<address of node 0>",
        )
    if found.rank is not None and found.rank >= cluster.nodes:
        raise InputError(
            f"this node has rank {found.rank}, and this run was built for {cluster.nodes} "
            f"node{'s' * (cluster.nodes > 1)}",
            where=by,
            fix=f"use 0 to {cluster.nodes - 1}" if cluster.nodes > 1 else another,
        )
    return found


def node_environment(
    environ: Mapping[str, str] | None = None, first: Path = _FIRST_PROCESS
) -> dict[str, str]:
    """This process's variables, with those of a container's first process that it lacks.

    A shell over ssh into a container has none of the variables that the platform gave to the
    container; its first process has them.
    """
    own = dict(os.environ if environ is None else environ)
    known = {name for one in _LAUNCHERS for names in one[2:] for name in names.split()}
    known.discard("GROUP_RANK")
    try:
        lines = first.read_bytes().split(b"\0")
    except OSError:  # another user's, or no Linux: what we have is all there is
        return own
    for line in lines:
        name, found, value = line.decode(errors="replace").partition("=")
        if found and (name in known or name.startswith(("RUNPOD_", "HF_", "WANDB_"))):
            own.setdefault(name, value)
    return own


def network_variables(
    environ: Mapping[str, str], *, nodes: int, interfaces: Path = _INTERFACES
) -> dict[str, str]:
    """The network interface for NCCL and gloo in a RunPod cluster, where nobody has chosen one."""
    on_runpod = any(environ.get(name) for name in ("RUNPOD_POD_ID", "NUM_TRAINERS"))
    if nodes == 1 or not on_runpod or not (interfaces / _RUNPOD_INTERFACE).exists():
        return {}
    wanted = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    return {name: _RUNPOD_INTERFACE for name in wanted if not environ.get(name)}


def _whole(name: str, value: str, low: int, high: int) -> int:
    # Slurm writes `2(x3)` where it speaks of several nodes at once.
    text = value.partition("(")[0] if name.startswith("SLURM_") else value
    if re.fullmatch(r"0|[1-9][0-9]{0,18}", text) is None or not low <= int(text) <= high:
        raise InputError(
            f"{name} is {value!r}",
            where="environment",
            fix=f"give a whole number from {low} to {high}",
        )
    return int(text)


def _first_host(name: str, value: str) -> str:
    """The first of a list of hosts: SkyPilot's has one a line, Slurm's is ``gpu-[03-05,9],b1``."""
    first = re.split(r"[\s,](?![^\[]*\])", value.strip())[0]
    host = re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]*|\[[0-9a-fA-F:]+\]", host) is None:
        raise InputError(
            f"{name} is {value!r}",
            where="environment",
            fix="give the host name or address of node 0",
        )
    return host
