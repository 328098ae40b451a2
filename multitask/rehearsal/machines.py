"""The rehearsal's machines: one process tree a node, started, killed, cut off and cleaned up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from multitask.errors import MultitaskError
from multitask.rehearsal.faults import Fault, as_environment, grant, wanted
from multitask.rehearsal.network import Network
from multitask.rehearsal.probe import VARIABLE as PROBE_VARIABLE
from multitask.rehearsal.shims import TIMEOUT_VARIABLE
from multitask.training.process import end_processes, processes_with

# How long collectives wait for a node that is cut off.
HANG_SECONDS = 90.0

_NODE_VARIABLE = "MULTITASK_REHEARSAL_NODE"
_KILL_SECONDS = 5.0
_REPLACEMENT_SECONDS = 2.0
_LONGEST_PARTITION = 120.0


class Machines:
    """Nodes that train a rehearsal's run. Use it as a context manager: nothing outlives it."""

    def __init__(
        self,
        root: Path,
        network: Network,
        *,
        nodes: int,
        procs: int,
        forkserver: Path,
        faults: Sequence[Fault] = (),
        probe: Path | None = None,
        limit: float = 1800.0,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            root: The rehearsal's run directory.
            network: Where the nodes are.
            nodes: How many.
            procs: Ranks of each.
            forkserver: The address of what their launches are forked from.
            faults: What goes wrong.
            probe: The file for what the ranks find out about their first step; None: nothing.
            limit: Seconds after which the rehearsal is given up.
        """
        self.root, self.network = root, network
        self.nodes, self.procs, self._forkserver = nodes, procs, forkserver
        self.faults, self.limit, self._probe = list(faults), limit, probe
        self._folder = root / "faults"
        self._mark = f"{os.getpid()}-{time.time_ns()}"
        self._port = _free_port()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._cut: dict[int, float] = {}
        self.seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A second Ctrl-C while cleaning up must not leave processes behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for node in range(self.nodes):
                self._kill(node)
        finally:
            signal.signal(signal.SIGINT, before)

    def run(self) -> None:
        """Train until every node is done.

        Raises:
            MultitaskError: A node's supervisor gave up, or it took too long.
        """
        start = time.monotonic()
        for node in range(self.nodes):
            self._start(node, resume=False)
        try:
            while any(process.poll() is None for process in self._processes.values()):
                for fault in wanted(self.faults, self._folder):
                    self._do(fault)
                self._mend()
                if time.monotonic() - start > self.limit:
                    raise MultitaskError(
                        f"the training did not end within {self.limit:.0f} s",
                        where=self.root / "logs",
                    )
                time.sleep(0.1)
        finally:
            self.seconds = time.monotonic() - start
        for node, process in self._processes.items():
            if process.returncode:
                raise MultitaskError(
                    f"node {node} gave up with exit code {process.returncode}: {self._said(node)}",
                    where=self.root / "logs",
                )

    def left(self) -> list[int]:
        """Processes of these machines that still run."""
        return [
            pid
            for node in range(self.nodes)
            for pid in processes_with(_NODE_VARIABLE, f"{self._mark}-{node}")
        ]

    def _start(self, node: int, *, resume: bool) -> None:
        command = [*self.network.prefix(node), sys.executable, "-m", "multitask.rehearsal.node"]
        command += ["--nodes", str(self.nodes), "--node", str(node), "--procs", str(self.procs)]
        command += ["--master-addr", self.network.addresses[0], "--master-port", str(self._port)]
        command += ["--forkserver", str(self._forkserver)]
        command += ["--resume"] if resume else []
        environment = dict(os.environ) | self.network.environment()
        environment |= as_environment(self.faults, self._folder)
        environment |= {_NODE_VARIABLE: f"{self._mark}-{node}", "OMP_NUM_THREADS": "1"}
        if self._probe is not None:
            environment[PROBE_VARIABLE] = str(self._probe.resolve())
        if any(fault.kind == "partition" for fault in self.faults):
            environment[TIMEOUT_VARIABLE] = str(HANG_SECONDS)
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
            environment.pop(name, None)
        log = self.root / "logs" / f"supervisor-{node}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as file:
            self._processes[node] = subprocess.Popen(
                [*command, str(self.root)],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE,  # its end tells the node that the rehearsal is gone
                env=environment,
                start_new_session=True,
            )

    def _do(self, fault: Fault) -> None:
        """Do to a machine what its ranks asked for."""
        if fault.kind == "kill":
            self._kill(fault.index)
            time.sleep(_REPLACEMENT_SECONDS)
            grant(fault, self._folder)
            self._start(fault.index, resume=True)  # as whoever watches a cluster would
        elif fault.kind == "partition":
            self.network.set_link(fault.index, "down")
            self._cut[fault.index] = time.monotonic()
            grant(fault, self._folder)

    def _mend(self) -> None:
        """Bring a link up again once the nodes have begun anew, or after a while."""
        for node, since in list(self._cut.items()):
            if self._second_attempt() or time.monotonic() - since > _LONGEST_PARTITION:
                self.network.set_link(node, "up")
                del self._cut[node]

    def _second_attempt(self) -> bool:
        logs = self.root / "logs"
        return any(logs.glob("train-attempt-2*.log"))

    def _kill(self, node: int) -> None:
        end_processes(
            _NODE_VARIABLE, f"{self._mark}-{node}", patience=0, kill_patience=_KILL_SECONDS
        )
        process = self._processes.get(node)
        if process is not None:
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _said(self, node: int) -> str:
        """What a supervisor gave as its error, with the start of the traceback left out."""
        log = self.root / "logs" / f"supervisor-{node}.log"
        text = log.read_text(encoding="utf-8", errors="replace").strip()
        lines = text[max(0, text.rfind("\nerror: ")) :].strip().splitlines()
        return "\n".join(lines if len(lines) <= 14 else [*lines[:2], "  ...", *lines[-11:]])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
