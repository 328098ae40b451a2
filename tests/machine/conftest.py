"""Machines as real processes, a client that speaks the protocol, and a platform on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from multitask.machine import protocol
from multitask.machine.protocol import BundleFile, bundle_json
from multitask.training.process import end_processes
from tests.machine.platform_api import KEY, PlatformApi, platform_api

MACHINE = Path(__file__).parents[1] / "support" / "machine.py"
ROOT = Path(__file__).parents[2]
PATIENCE = 90.0
CLUSTER = "cluster-1"

FILES = {
    "spec.yaml": b"model: x\n",
    "axolotl.yaml": b"learning_rate: 0.1\n",
    "data/train.jsonl": b'{"messages": []}\n' * 4000,
    "data/manifest.json": b'{"files": {"train.jsonl": {"sha256": "rows"}}}',
    "faults.json": b"{}",
    "launch/node.sh": b"#!/bin/sh\n",
}


def bundle_of(files: dict[str, bytes]) -> list[BundleFile]:
    """The list of files' paths, sizes and hashes."""
    return [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in files.items()
    ]


@pytest.fixture
def api() -> Iterator[PlatformApi]:
    with platform_api() as served:
        yield served


@dataclass
class Client:
    """A client of node 0."""

    port: int
    token: str
    patience: float = PATIENCE

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | more.pop("headers", {})
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, headers=headers, timeout=60, **more)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", "/status").json()
        return found

    def put(self, path: str, data: bytes, *, chunk: int = 2**20) -> httpx.Response:
        digest = hashlib.sha256(data).hexdigest()
        for offset in range(0, max(1, len(data)), chunk):
            query = {"offset": offset, "size": len(data), "sha256": digest}
            part = data[offset : offset + chunk]
            answer = self.ask("PUT", f"/files/{path}", params=query, content=part)
            if answer.status_code != 200:
                break
        return answer

    def upload(self, files: dict[str, bytes]) -> str:
        listing = bundle_json(bundle_of(files))
        for path, data in {protocol.BUNDLE_FILE: listing, **files}.items():
            answer = self.put(path, data)
            assert answer.status_code == 200, answer.text
        return hashlib.sha256(listing).hexdigest()

    def start(self, files: dict[str, bytes] | None = None) -> None:
        digest = self.upload(FILES if files is None else files)
        answer = self.ask("POST", "/start", json={"bundle_sha256": digest})
        assert answer.status_code == 202, answer.text

    def await_health(self) -> None:
        await_that(self._healthy)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5).json()["ok"] is True
        except httpx.HTTPError:
            return False

    def await_phase(self, *phases: str) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.update(self.status())
            wrong = seen["phase"] in protocol.FINAL_PHASES and seen["phase"] not in phases
            assert not wrong, seen
            return seen["phase"] in phases

        await_that(reached, self.patience)
        return seen

    def await_step(self, step: int) -> None:
        await_that(lambda: self.status()["step"] >= step, self.patience)


def await_that(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for something; how long it takes decides nothing unless it never comes."""
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


@dataclass
class Machines:
    """The machines of a job, as processes on loopback."""

    folder: Path
    api: PlatformApi
    nodes: int = 1
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    command: tuple[str, ...] = (str(MACHINE),)
    environ: dict[str, str] = field(default_factory=dict)
    volumes: dict[int, Path] = field(default_factory=dict)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self.client = Client(_free_port(), secrets.token_urlsafe(32))
        self.volume, self.port = self.folder / "volume", _free_port()
        self.api.pods |= {f"pod-{n}": {"id": f"pod-{n}"} for n in range(self.nodes)}
        if self.nodes > 1:
            self.api.clusters[CLUSTER] = {"id": CLUSTER, "name": "multitask-job"}

    @property
    def run(self) -> Path:
        return self.volume / "runs" / "job"

    def start(self, node: int = 0, **environ: str) -> subprocess.Popen[bytes]:
        bundle = hashlib.sha256(bundle_json(bundle_of(self.files))).hexdigest()
        variables = {
            protocol.ENV_RUN_ID: "job",
            protocol.ENV_BUNDLE: bundle,
            protocol.ENV_TOKEN: self.client.token,
            protocol.ENV_VOLUME: str(self.volumes.get(node, self.volume)),
            protocol.ENV_PORT: str(self.client.port),
            protocol.ENV_API_URL: self.api.url,
            protocol.ENV_API_KEY: KEY,
            protocol.ENV_POD_ID: f"pod-{node}",
            "MULTITASK_TEST_MARK": self.mark,
            "PYTHONPATH": str(ROOT),
            "PATH": os.environ["PATH"],
        }
        if self.nodes > 1:
            variables |= {
                "NUM_NODES": str(self.nodes),
                "NODE_RANK": str(node),
                "PRIMARY_ADDR": "127.0.0.1",
                "PRIMARY_PORT": str(self.port),
                "NODE_ADDR": "127.0.0.1",
                "WORLD_SIZE": str(self.nodes),
            }
        log = (self.folder / f"machine-{node}.txt").open("ab")
        self.processes[node] = subprocess.Popen(
            [sys.executable, *self.command],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables | self.environ | environ,
        )
        return self.processes[node]

    def start_all(self, **environ: str) -> None:
        for node in range(self.nodes):
            self.start(node, **environ)
        self.client.await_health()

    def kill(self, node: int) -> None:
        """A node dies with all that runs on it."""
        rank = None if self.nodes == 1 else str(node)
        while pids := _with_environment(self.mark, "NODE_RANK", rank):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.processes[node].wait()

    def wait(self, node: int = 0) -> int:
        return self.processes[node].wait(timeout=PATIENCE)

    def log(self, node: int = 0) -> str:
        return (self.folder / f"machine-{node}.txt").read_text(errors="replace")

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        end_processes("MULTITASK_TEST_MARK", self.mark, patience=0)


def _with_environment(mark: str, name: str, value: str | None) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            lines = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_ours = f"MULTITASK_TEST_MARK={mark}".encode() in lines
        if is_ours and (value is None or f"{name}={value}".encode() in lines):
            found.append(int(folder.name))
    return found


@pytest.fixture
def machines(tmp_path: Path, api: PlatformApi) -> Iterator[Callable[..., Machines]]:
    """Make the machines of a job; what is left of them ends with the test."""
    made = []

    def make(**wishes: Any) -> Machines:
        made.append(Machines(tmp_path, api, **wishes))
        return made[-1]

    yield make
    for job in made:
        job.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
