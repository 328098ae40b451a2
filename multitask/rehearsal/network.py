"""Network namespaces: every node of a rehearsal with an address of its own.

Made with iproute2: a bridge, and for each node a namespace whose end of a veth pair is called as
the interface of a rented cluster is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from multitask.errors import InputError, MultitaskError

INTERFACE = "ens1"


@dataclass(frozen=True)
class Network:
    """Where the nodes are.

    Attributes:
        addresses: Of each node.
        namespaces: Of each node; empty on loopback.
    """

    addresses: tuple[str, ...]
    namespaces: tuple[str, ...] = ()

    def prefix(self, node: int) -> list[str]:
        """What a command is started with to run on a node."""
        return ["ip", "netns", "exec", self.namespaces[node]] if self.namespaces else []

    def environment(self) -> dict[str, str]:
        """What a node's processes must know of its interface."""
        return {"GLOO_SOCKET_IFNAME": INTERFACE if self.namespaces else "lo"}

    def set_link(self, node: int, state: str) -> None:
        """Take a node's link ``down`` or ``up``.

        Raises:
            MultitaskError: The nodes share one loopback, or it cannot be done.
        """
        if not self.namespaces:
            raise MultitaskError("nodes on loopback have no link of their own")
        _ip("-n", self.namespaces[node], "link", "set", INTERFACE, state)


def loopback(nodes: int) -> Network:
    """All nodes on 127.0.0.1."""
    return Network(("127.0.0.1",) * nodes)


@contextmanager
def namespaces(nodes: int) -> Iterator[Network]:
    """A namespace for each node, removed afterwards.

    Raises:
        InputError: iproute2 is missing, or this user may not make namespaces.
    """
    if shutil.which("ip") is None:
        raise InputError(
            "the program `ip` is missing", where="--netns", fix="install iproute2, or leave it out"
        )
    mark = f"mt{os.getpid() % 100000}"
    bridge, names = f"{mark}br", tuple(f"{mark}n{node}" for node in range(nodes))
    subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
    addresses = tuple(f"{subnet}.{node + 1}" for node in range(nodes))
    try:
        try:
            _ip("link", "add", bridge, "type", "bridge")
        except MultitaskError as error:
            raise InputError(
                f"network namespaces cannot be made here ({error})",
                where="--netns",
                fix="run as root, or leave it out: nodes then share the loopback",
            ) from None
        _ip("link", "set", bridge, "up")
        for node, name in enumerate(names):
            _ip("netns", "add", name)
            _ip("link", "add", f"{name}v", "type", "veth", "peer", "name", INTERFACE, "netns", name)
            _ip("link", "set", f"{name}v", "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{addresses[node]}/24", "dev", INTERFACE)
            _ip("-n", name, "link", "set", INTERFACE, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield Network(addresses, names)
    finally:
        for name in names:
            _quietly("netns", "del", name)
            _quietly("link", "del", f"{name}v")
        _quietly("link", "del", bridge)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MultitaskError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _quietly(*arguments: Sequence[str] | str) -> None:
    subprocess.run(["ip", *map(str, arguments)], capture_output=True, check=False)
