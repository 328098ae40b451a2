"""A machine's job and place, from its environment."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from multitask.errors import InputError
from multitask.machine import protocol
from multitask.machine.limits import Limits
from multitask.machine.protocol import Role

CLUSTER_VARIABLES = (
    "PRIMARY_ADDR",
    "PRIMARY_PORT",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_ADDR",
    "NODE_RANK",
    "NUM_NODES",
    "NUM_TRAINERS",
    "HOST_NODE_ADDR",
    "WORLD_SIZE",
)
"""What an Instant Cluster tells each of its nodes."""

SECRETS = (
    protocol.ENV_TOKEN,
    protocol.ENV_API_KEY,
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY",
    "JUPYTER_PASSWORD",
    "JUPYTER_TOKEN",
    "RUNPOD_AI_API_KEY",
)
"""Variables whose values never appear in a log."""

FIRST_PROCESS = Path("/proc/1/environ")

_CLUSTER_INTERFACE = "ens1"
_INTERFACES = Path("/sys/class/net")
_GET_ADDRESS = 0x8915  # SIOCGIFADDR of linux/sockios.h


@dataclass(frozen=True)
class Place:
    """Where a machine stands among those of its job.

    Attributes:
        node: Its number; 0 leads.
        nodes: How many there are.
        address: Address of node 0 as the training uses it.
        port: The training's port there.
        gpus: GPUs of each node as the platform says; None where it does not.
        own_address: This node's address in the cluster.
    """

    node: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 29500
    gpus: int | None = None
    own_address: str | None = None


@dataclass(frozen=True)
class Settings:
    """A machine's job.

    Attributes:
        role: ``pod``, ``node`` or ``serverless``.
        run_id: Name of the run's folder on the volume.
        name: Name of the pod or cluster on the platform.
        volume: The shared or persistent disk.
        bundle: Hash of the files that it may be given.
        token: What a client must know.
        port: Of the control server.
        limits: What it may take.
        place: Where it stands.
        api_url: The platform's API.
        api_key: Its key for that; None outside the platform.
        pod_id: Its name there.
    """

    role: Role
    run_id: str
    name: str
    volume: Path
    bundle: str
    token: str = field(repr=False)
    port: int
    limits: Limits
    place: Place
    api_url: str
    api_key: str | None = field(repr=False)
    pod_id: str | None

    @property
    def run_root(self) -> Path:
        """The run's folder."""
        return self.volume / "runs" / self.run_id


def container_environment(
    environ: Mapping[str, str] | None = None, first: Path = FIRST_PROCESS
) -> dict[str, str]:
    """This process's variables, with those of the container's first process that it lacks.

    A shell over ssh has none of the container's variables.
    """
    own = dict(os.environ if environ is None else environ)
    try:
        lines = first.read_bytes().split(b"\0")
    except OSError:  # another user's, or no Linux: what we have is all there is
        return own
    for line in lines:
        name, found, value = line.decode(errors="replace").partition("=")
        ours = name.startswith(("MULTITASK_", "RUNPOD_", "HF_")) or name in CLUSTER_VARIABLES
        if found and (ours or name in SECRETS):
            own.setdefault(name, value)
    return own


def read_settings(environ: Mapping[str, str], *, now: float | None = None) -> Settings:
    """Read a pod's or node's job.

    Args:
        environ: The variables.
        now: Unix time; the bill's beginning where nobody says it.

    Raises:
        InputError: A variable is missing or wrong.
    """
    reader = _Reader(environ)
    run_id = reader.text(protocol.ENV_RUN_ID)
    try:
        protocol.check_run_id(run_id)
    except ValueError as error:
        raise InputError(str(error), where=protocol.ENV_RUN_ID) from None
    bundle = reader.text(protocol.ENV_BUNDLE)
    if re.fullmatch(r"[0-9a-f]{64}", bundle) is None:
        raise InputError("is no SHA-256 in hexadecimal", where=protocol.ENV_BUNDLE)
    token = reader.text(protocol.ENV_TOKEN)
    if len(token) < 16:
        raise InputError("is too short to be safe", where=protocol.ENV_TOKEN)
    place = read_place(environ)
    return Settings(
        role=read_role(environ),
        run_id=run_id,
        name=environ.get(protocol.ENV_NAME) or f"multitask-{run_id}",
        volume=Path(environ.get(protocol.ENV_VOLUME) or protocol.DEFAULT_VOLUME),
        bundle=bundle,
        token=token,
        port=round(reader.number(protocol.ENV_PORT, protocol.DEFAULT_PORT) or 0),
        limits=_limits(reader, time.time() if now is None else now),
        place=place,
        api_url=(environ.get(protocol.ENV_API_URL) or protocol.DEFAULT_API_URL).rstrip("/"),
        api_key=environ.get(protocol.ENV_API_KEY) or None,
        pod_id=environ.get(protocol.ENV_POD_ID) or None,
    )


def removal_settings(environ: Mapping[str, str]) -> Settings:
    """What is enough to remove this machine, whatever is wrong with its job.

    A machine whose job cannot be read knows nothing of a cluster, and removes itself alone.
    """
    try:
        return read_settings(environ)
    except InputError:
        return Settings(
            role="pod",
            run_id="unknown",
            name="",
            volume=Path(protocol.DEFAULT_VOLUME),
            bundle="",
            token="",
            port=protocol.DEFAULT_PORT,
            limits=Limits(started=time.time()),
            place=Place(),
            api_url=(environ.get(protocol.ENV_API_URL) or protocol.DEFAULT_API_URL).rstrip("/"),
            api_key=environ.get(protocol.ENV_API_KEY) or None,
            pod_id=environ.get(protocol.ENV_POD_ID) or None,
        )


def read_role(environ: Mapping[str, str]) -> Role:
    """Read the role; without a variable, a machine of a cluster is a node, any other a pod.

    Raises:
        InputError: It is none of the three.
    """
    role = environ.get(protocol.ENV_ROLE) or ""
    for known in protocol.ROLES:
        if role == known:
            return known
    if role:
        raise InputError(
            f"{role!r} is no role", where=protocol.ENV_ROLE, fix=f"use {', '.join(protocol.ROLES)}"
        )
    if environ.get("RUNPOD_ENDPOINT_ID"):
        return "serverless"
    return "node" if environ.get("NUM_NODES", "1") not in ("", "1") else "pod"


def read_limits(environ: Mapping[str, str], *, now: float | None = None) -> Limits:
    """Read the limits alone.

    Raises:
        InputError: One is no number.
    """
    return _limits(_Reader(environ), time.time() if now is None else now)


def read_place(environ: Mapping[str, str]) -> Place:
    """Read a node's place in its cluster.

    Raises:
        InputError: A cluster's variable is missing or wrong.
    """
    reader = _Reader(environ)
    nodes = round(reader.number("NUM_NODES", 1) or 1)
    gpus = reader.number("NUM_TRAINERS", None)
    if nodes == 1:
        return Place(gpus=None if gpus is None else round(gpus))
    node = reader.text("NODE_RANK")
    if not node.isdigit() or int(node) >= nodes:
        raise InputError(f"{node!r} is not 0 to {nodes - 1}", where="NODE_RANK")
    address = environ.get("MASTER_ADDR") or reader.text("PRIMARY_ADDR")
    port = reader.number("MASTER_PORT", None) or reader.number("PRIMARY_PORT", 29500)
    return Place(
        node=int(node),
        nodes=nodes,
        address=address,
        port=round(port or 29500),
        gpus=None if gpus is None else round(gpus),
        own_address=environ.get("NODE_ADDR") or None,
    )


def network_variables(
    place: Place, environ: Mapping[str, str], interfaces: Path = _INTERFACES
) -> dict[str, str]:
    """The network interface for NCCL and gloo, where nobody has chosen one.

    A RunPod cluster's nodes reach each other over ens1 alone; over eth0 they time out. Elsewhere
    it is the interface that has the node's address.

    Raises:
        InputError: The node belongs to a cluster and has no such interface.
    """
    wanted = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    missing = [name for name in wanted if not environ.get(name)]
    if place.nodes == 1 or not missing:
        return {}
    if (interfaces / _CLUSTER_INTERFACE).exists():
        return dict.fromkeys(missing, _CLUSTER_INTERFACE)
    names = sorted(path.name for path in interfaces.iterdir()) if interfaces.is_dir() else []
    for name in names:
        if place.own_address is not None and _has_address(name, place.own_address):
            return dict.fromkeys(missing, name)
    raise InputError(
        f"this node has neither an interface {_CLUSTER_INTERFACE} nor one with its address "
        f"{place.own_address} (it has {', '.join(names)})",
        where="environment",
        fix="set NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME to the cluster's interface",
    )


def cache_variables(volume: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The Hub's caches on the volume, where they are not chosen already.

    Axolotl's image has them below /workspace/data, which is no volume where ours lies elsewhere.
    """
    caches = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_DATASETS_CACHE": "datasets"}
    default = Path(protocol.DEFAULT_VOLUME)
    found = {}
    for name, folder in caches.items():
        chosen = environ.get(name)
        if not chosen or (volume != default and Path(chosen).is_relative_to(default)):
            found[name] = str(volume / "huggingface-cache" / folder)
    return found


def _has_address(interface: str, address: str) -> bool:
    if interface == "lo":
        return address.startswith("127.")
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            request = struct.pack("256s", interface.encode()[:15])
            answer = fcntl.ioctl(probe.fileno(), _GET_ADDRESS, request)
        except OSError:
            return False  # it has no IPv4 address
    return socket.inet_ntoa(answer[20:24]) == address


class _Reader:
    """Reads variables; a wrong one is an error that names it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str:
        value = self._environ.get(name, "")
        if not value:
            raise InputError(
                "is not set", where=name, fix="`multitask runpod up` sets it on the machines"
            )
        return value

    def number(self, name: str, default: float | None) -> float | None:
        value = self._environ.get(name, "")
        if not value:
            return default
        if re.fullmatch(r"\d{1,15}(\.\d+)?", value) is None:
            raise InputError(f"{value[:40]!r} is no number", where=name)
        return float(value)


def _limits(reader: _Reader, now: float) -> Limits:
    number: Callable[[str, float | None], float | None] = reader.number
    grace = number(protocol.ENV_GRACE, protocol.DEFAULT_GRACE_SECONDS)
    started = number(protocol.ENV_STARTED, now)
    if number(protocol.ENV_MAX_COST, None) is not None and not number(protocol.ENV_PRICE, None):
        raise InputError(
            "needs the price", where=protocol.ENV_MAX_COST, fix=f"set {protocol.ENV_PRICE} too"
        )
    return Limits(
        started=now if started is None else started,
        deadline=number(protocol.ENV_DEADLINE, None),
        price_per_hour=number(protocol.ENV_PRICE, None),
        max_cost=number(protocol.ENV_MAX_COST, None),
        lost_client=number(protocol.ENV_LOST_CLIENT, None) or None,
        grace=protocol.DEFAULT_GRACE_SECONDS if grace is None else grace,
    )
