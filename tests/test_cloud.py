"""What dstack's nodes do, done here: its commands, its variables, real Axolotl, a node killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.rehearsal import forkclient
from multitask.rehearsal.adapt import adapted
from multitask.rehearsal.checks import losses_by_step, steps_lost
from multitask.rehearsal.faults import Fault, as_environment, grant
from multitask.rehearsal.forkserver import Forkserver
from multitask.run import Run
from multitask.runners.axolotl.validate import axolotl_installed
from multitask.runners.rent import BROUGHT, VOLUME
from multitask.toy import ToySize, write_toy_model
from multitask.training.process import processes_with
from tests.toy_run import SUPPORT, multitask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.train,
    pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed"),
]

NODES = 3
_ROOT = Path(__file__).parents[1]
_MARK = "MULTITASK_TEST_NODE"
_CLUSTER = {
    "name": "three",
    "description": "3 nodes x 1 NVIDIA A100 80 GB",
    "nodes": NODES,
    "gpus_per_node": 1,
    "gpu": "A100",
    "memory_gb": 80,
    "compute_capability": "sm_80",
    "bf16_tflops": 312,
    "inter_node_gb_s": 25,
}
# Of the machines, what is not here: a mounted share, and a GPU that the driver shows.
_TOOLS = {
    "mountpoint": "exit 0",
    "nvidia-smi": "echo 'GPU 0: NVIDIA A100-SXM4-80GB'",
    "multitask": f'exec {sys.executable} -m multitask "$@"',
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run built for three nodes of one A100 each; then what a CPU forces is changed."""
    folder = tmp_path_factory.mktemp("cloud")
    size = ToySize(hidden=64, layers=2, heads=4, vocabulary=600, context=256)
    write_toy_model(folder / "toy", ["classify this claim", "where is my card?"] * 40, size=size)
    (folder / "three.yaml").write_text(yaml.safe_dump(_CLUSTER))
    spec = {
        "model": str(folder / "toy"),
        "tasks": ["text_claims"],
        "sample": True,
        "cluster": "three.yaml",
        "sharding": "fsdp",
        "sequence_len": 256,
        "epochs": 40,
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    done = multitask("build-config", folder / "spec.yaml", "--out", folder / "run", "--no-validate")
    assert done.returncode == 0, done.stderr
    run = Run(folder / "run")
    config: dict[str, Any] = yaml.safe_load(run.axolotl.read_text())
    config, _ = adapted(config, model=config["base_model"], steps=8)
    assert config["fsdp_version"] == 2
    run.axolotl.write_text(yaml.safe_dump(config))
    return run


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    with Forkserver(tmp_path_factory.mktemp("forks") / "log") as server:
        server.wait()
        yield server


class Cluster:
    """Three nodes that dstack would have rented, as process trees on this machine."""

    def __init__(self, folder: Path, run: Run, forks: Forkserver) -> None:
        """Make what they find: the volume, the files that dstack brings, the machine's tools."""
        self.folder, self.volume = folder, folder / "volume"
        self.volume.mkdir(parents=True)
        self.task: dict[str, Any] = yaml.safe_load((run.launch / "dstack.yml").read_text())
        brought = folder / "brought"
        for entry in self.task["files"]:
            local, _, path = entry.partition(":")
            source, target = run.launch / local, brought / Path(path).relative_to(BROUGHT)
            target.parent.mkdir(exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        # As dstack joins them (server/services/jobs/configurators/base.py).
        command = " && ".join(self.task["commands"])
        self.command = command.replace(VOLUME, str(self.volume)).replace(BROUGHT, str(brought))
        tools = folder / "bin"
        tools.mkdir()
        for name, line in _TOOLS.items():
            (tools / name).write_text(f"#!/bin/sh\n{line}\n")
            (tools / name).chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = dict(os.environ) | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": f"{SUPPORT / 'cpu_launch'}:{_ROOT}",
            "CPU_LAUNCH": f"{forkclient.__file__}{os.pathsep}{forks.address}",
            "DSTACK_NODES_NUM": str(NODES),
            "DSTACK_MASTER_NODE_IP": "127.0.0.1",
            "DSTACK_GPUS_PER_NODE": "1",
            "MASTER_PORT": str(port),  # others test on this machine too
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.environment.pop("CUDA_VISIBLE_DEVICES", None)
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, **environment: str) -> None:
        """Start the task's command on every node, with dstack's variables."""
        for rank in range(NODES):
            own = {"DSTACK_NODE_RANK": str(rank), _MARK: self._mark(rank)}
            with (self.folder / f"node-{rank}.log").open("ab") as log:
                node = subprocess.Popen(
                    ["bash", "-c", self.command],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env=self.environment | environment | own,
                    start_new_session=True,
                )
            self.nodes[rank : rank + 1] = [node]

    def wait(self) -> list[int]:
        """The exit codes."""
        return [node.wait(1800) for node in self.nodes]

    def kill(self, rank: int) -> None:
        """Take a machine away: all its processes at once."""
        while left := processes_with(_MARK, self._mark(rank)):
            for process in left:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if rank < len(self.nodes):
                self.nodes[rank].poll()
            if all(_is_gone(process) for process in left):
                break
            time.sleep(0.05)

    @property
    def run(self) -> Run:
        """The run on the volume."""
        (root,) = (self.volume / "runs").iterdir()
        return Run(root)

    def said(self) -> str:
        """What the nodes wrote."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("node-*.log")))

    def _mark(self, rank: int) -> str:
        return f"{self.folder}-{rank}"


def _is_gone(process: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has too."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True
    return stat.rsplit(")", 1)[-1].split()[0] == "Z"


@pytest.fixture
def clusters(tmp_path: Path, run: Run, forks: Forkserver) -> Iterator[list[Cluster]]:
    """An undisturbed cluster and one that loses a node."""
    made = [Cluster(tmp_path / name, run, forks) for name in ("calm", "rough")]
    yield made
    for cluster in made:
        for rank in range(NODES):
            cluster.kill(rank)


def test_a_killed_node_and_a_retry_end_like_an_undisturbed_run(clusters: list[Cluster]) -> None:
    calm, rough = clusters
    calm.start()
    assert calm.wait() == [0, 0, 0], calm.said()

    # After the second checkpoint, one step on: that step is lost and trained again.
    fault = Fault("kill", "node", 1, 5)
    faults = rough.folder / "faults"
    rough.start(**as_environment([fault], faults))
    while not (faults / f"{fault.name}.wanted").exists():
        assert all(node.poll() is None for node in rough.nodes), rough.said()
        time.sleep(0.1)
    rough.kill(1)
    assert rough.nodes[1].wait(120) != 0
    # dstack ends the other jobs of a task that lost one, then starts all of them anew
    # (server/background/pipeline_tasks/runs/active.py); RunPod takes away a cluster whole.
    rough.kill(0)
    rough.kill(2)
    grant(fault, faults)
    rough.start(**as_environment([fault], faults))
    assert rough.wait() == [0, 0, 0], rough.said()

    assert "going on from checkpoint-4" in rough.said()
    assert steps_lost(rough.run) == [1]
    losses = losses_by_step(calm.run)
    assert list(losses) == list(range(1, 9))
    assert losses_by_step(rough.run) == losses  # digit by digit
    for cluster in clusters:
        results = json.loads((cluster.run.evaluations / "trained" / "results.json").read_text())
        assert results["tasks"]["text_claims"]["n"] > 0
        assert (cluster.run.root / "report.html").is_file()
