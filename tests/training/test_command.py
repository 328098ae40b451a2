"""The launch command of a node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multitask.cluster import load_cluster
from multitask.errors import InputError
from multitask.run import Run
from multitask.training.command import launch_command, launch_environment, usable_cores

CLUSTER = "3x4-a100-80gb"


def test_a_node_of_a_cluster_gets_its_rank_and_address(tmp_path: Path) -> None:
    environment = {"NODE_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "1234"}
    command = launch_command(Run(tmp_path), load_cluster(CLUSTER), environment, resume=None)
    assert command[command.index("--machine_rank") + 1] == "1"
    assert command[command.index("--main_process_ip") + 1] == "node0"
    assert command[-2:] == ["axolotl.cli.train", str(tmp_path / "axolotl.yaml")]


def test_a_single_machine_needs_no_environment(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model" / "checkpoint-4"
    command = launch_command(Run(tmp_path), load_cluster("cpu"), {}, resume=checkpoint)
    assert "--machine_rank" not in command
    assert command[-1] == f"--resume_from_checkpoint={checkpoint}"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NODE_RANK": "0"},
        {"NODE_RANK": "3", "MASTER_ADDR": "a"},
        {"NODE_RANK": "x", "MASTER_ADDR": "a"},
    ],
)
def test_a_node_that_does_not_know_its_place_is_refused(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with pytest.raises(InputError, match="NODE_RANK"):
        launch_command(Run(tmp_path), load_cluster(CLUSTER), environment, resume=None)


def test_a_nodes_processes_share_its_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torchrun gives each process one thread where the variable is not set."""
    monkeypatch.setattr("multitask.training.command.usable_cores", lambda: 96)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = Run(tmp_path)
    assert launch_environment(run, processes=4)["OMP_NUM_THREADS"] == "24"
    assert launch_environment(run, processes=400)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launch_environment(run, processes=4)["OMP_NUM_THREADS"] == "7"
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
