"""What connects the nodes: interfaces, and the variables that say which node this is."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from multitask.checks import Check, ok, problem, refused, warning
from multitask.doctor.bounded import NoAnswerError, Pending
from multitask.doctor.subject import Subject
from multitask.errors import InputError

GROUP = "cluster"
_SHOWN = (
    "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK",
    "LOCAL_WORLD_SIZE", "NUM_NODES", "NUM_TRAINERS", "NODE_ADDR", "PRIMARY_ADDR", "SLURM_JOB_ID",
)  # fmt: skip
_OF_ONE_PROCESS = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_PORT = "29500"
_SECONDS = 2.0


def cluster_checks(
    subject: Subject, environment: Mapping[str, str], *, trains_here: bool
) -> list[Check]:
    """Interfaces, the launcher's variables, and the first node's address.

    Args:
        subject: What is to be trained.
        environment: This process's variables.
        trains_here: Whether this machine is to be one of the nodes.
    """
    return [
        *_interfaces(subject, environment),
        *_variables(subject, environment, trains_here),
        *_first_node(subject, environment),
    ]


def interfaces() -> list[str]:
    """Names of this machine's network interfaces."""
    return [name for _, name in socket.if_nameindex()]


def _interfaces(subject: Subject, environment: Mapping[str, str]) -> list[Check]:
    names = interfaces()
    several = subject.cluster is not None and subject.cluster.nodes > 1
    checks = []
    for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = environment.get(variable, "")
        if value:
            checks.append(_interface(variable, value, names))
        elif several and "RUNPOD_POD_ID" in environment and "ens1" in names:
            text = "not set; RunPod's nodes reach each other over ens1 alone"
            fix = f"export {variable}=ens1, or start with `multitask train`, which sets it"
            checks.append(problem(GROUP, variable, text, fix))
        elif several:
            checks.append(ok(GROUP, variable, "not set; the library chooses"))
    return checks


def _interface(variable: str, value: str, names: Sequence[str]) -> Check:
    # gloo takes whole names; NCCL beginnings of names, "=" before whole ones, "^" to leave out.
    chosen = value.split(",")
    if variable.startswith("GLOO"):
        matching = [name for name in names if name in chosen]
    else:
        inverted, exact = value.startswith("^"), value.lstrip("^").startswith("=")
        chosen = value.lstrip("^=").split(",")
        matching = [
            name
            for name in names
            if inverted != any(name == c if exact else name.startswith(c) for c in chosen)
        ]
    if not matching:
        return problem(
            GROUP,
            variable,
            f"{value!r} fits no interface; there are {', '.join(names)}",
            f"set it to one of them, or unset {variable}",
        )
    down = [name for name in matching if _state(name) == "down"]
    if len(down) == len(matching):
        return problem(GROUP, variable, f"{value}: {', '.join(down)} is down", "bring it up")
    return ok(GROUP, variable, f"{value}: {', '.join(matching)}")


def _state(interface: str) -> str:
    try:
        return Path(f"/sys/class/net/{interface}/operstate").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _variables(subject: Subject, environment: Mapping[str, str], trains_here: bool) -> list[Check]:
    found = [f"{name}={environment[name]}" for name in _SHOWN if name in environment]
    wrong = [*_sizes(subject, environment), *_strays(subject, environment)]
    wrong += _place(subject, environment, trains_here)
    if wrong:
        return wrong
    return [ok(GROUP, "variables", ", ".join(found) or "none set, as on a single machine")]


def _sizes(subject: Subject, environment: Mapping[str, str]) -> list[Check]:
    """Sizes that a launcher set must be those that the run was planned for."""
    cluster = subject.cluster
    if cluster is None:
        return []
    wanted = {
        "WORLD_SIZE": (cluster.world_size, "process(es)"),
        "NUM_NODES": (cluster.nodes, "node(s)"),
        "NUM_TRAINERS": (cluster.gpus_per_node, "GPU(s) a node"),
    }
    return [
        problem(
            GROUP,
            name,
            f"it is {environment[name]}, and the run trains with {number} {unit}",
            f"unset {name} if it is a left-over; else choose the `cluster` that is there and "
            "build the run again",
        )
        for name, (number, unit) in wanted.items()
        if environment.get(name) and environment[name] != str(number)
    ]


def _strays(subject: Subject, environment: Mapping[str, str]) -> list[Check]:
    """Variables that a launcher gives its processes, in a shell that none started."""
    checks = []
    size = environment.get("WORLD_SIZE", "1")
    if subject.cluster is None and size != "1" and not environment.get("MASTER_ADDR"):
        text = f"it is {size} in a plain shell: Axolotl would wait for processes that never come"
        checks.append(problem(GROUP, "WORLD_SIZE", text, "unset WORLD_SIZE"))
    left = [name for name in _OF_ONE_PROCESS if name in environment]
    if left:
        text = f"set in this shell ({', '.join(left)}), though launchers set them for each process"
        checks.append(warning(GROUP, "RANK", text, f"unset {' '.join(left)}"))
    return checks


def _place(subject: Subject, environment: Mapping[str, str], trains_here: bool) -> list[Check]:
    """Which node this is."""
    from multitask.training.nodes import nodes_for

    cluster = subject.cluster
    if cluster is None:
        return []
    try:
        nodes_for(cluster, environment)
    except InputError as error:
        given = any(environment.get(name) for name in ("NODE_RANK", "MASTER_ADDR"))
        if not given and not trains_here:
            return []
        return [refused(GROUP, "NODE_RANK", error, "problem" if given else "warning")]
    return []


def _first_node(subject: Subject, environment: Mapping[str, str]) -> list[Check]:
    address = environment.get("MASTER_ADDR")
    one_machine = subject.cluster is not None and subject.cluster.world_size == 1
    if not address or one_machine:
        return []
    port = environment.get("MASTER_PORT") or _PORT
    if not port.isdigit() or not 0 < int(port) < 65536:
        return [problem(GROUP, "MASTER_PORT", f"it is {port!r}", "use 1 to 65535")]
    leads = environment.get("NODE_RANK", "0") == "0"
    ask = _listen if leads else _connect
    try:
        return [Pending(lambda: ask(address, int(port)), _SECONDS).get()]
    except NoAnswerError as error:
        text = f"{address}: {error}"
    except OSError as error:
        text = f"{address}: {error.strerror or error}"
    fix = "give the address of node 0 on the network that the nodes share, and see that it is up"
    return [warning(GROUP, "MASTER_ADDR", text, fix)]


def _listen(address: str, port: int) -> Check:
    """Whether this machine, which leads, can be reached there."""
    family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(place)
            # Without it, a port that another socket listens on could be taken for free.
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                text = f"port {port} is taken on this machine"
                fix = "end what listens there, or set MASTER_PORT to another on every node"
                return problem(GROUP, "MASTER_PORT", text, fix)
            if error.errno == errno.EADDRNOTAVAIL:
                text = f"{address} is no address of this machine, and NODE_RANK is 0"
                fix = "set it to the address of node 0, unless that is translated on the way"
                return warning(GROUP, "MASTER_ADDR", text, fix)
            raise
    return ok(GROUP, "MASTER_ADDR", f"{address} is this machine's, port {port} is free")


def _connect(address: str, port: int) -> Check:
    try:
        socket.create_connection((address, port), timeout=_SECONDS).close()
    except ConnectionRefusedError:
        return ok(GROUP, "MASTER_ADDR", f"{address} answers; nothing listens on {port} yet")
    return ok(GROUP, "MASTER_ADDR", f"{address} answers on port {port}")
