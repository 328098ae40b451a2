"""The launch commands of a node, read by the launchers' own parsers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multitask.cluster import load_cluster
from multitask.run import Run
from multitask.runners.launch import accelerate_yaml
from multitask.training.command import (
    launch_command,
    launch_environment,
    torchrun_command,
    usable_cores,
)
from multitask.training.nodes import Nodes

_THREE = load_cluster("3x4-a100-80gb")
_NODE = Nodes("torchrun", rank=2, master="node0", port=1234)


def test_accelerate_understands_rank_address_and_port(tmp_path: Path) -> None:
    launch = pytest.importorskip("accelerate.commands.launch")
    run = Run(tmp_path)
    run.accelerate.write_text(accelerate_yaml(_THREE))
    command = launch_command(run, _THREE, _NODE)
    parsed = launch.launch_command_parser().parse_args(command[3:])
    parsed, _, _ = launch._validate_launch_command(parsed)
    assert (parsed.machine_rank, parsed.main_process_ip) == (2, "node0")
    assert (parsed.num_machines, parsed.num_processes, parsed.main_process_port) == (3, 12, 1234)
    assert parsed.rdzv_backend == "static"
    assert parsed.training_script == "axolotl.cli.train"
    assert parsed.training_script_args == [str(tmp_path / "axolotl.yaml")]


def test_torchrun_understands_the_same_and_meets_statically(tmp_path: Path) -> None:
    """With an endpoint and no backend, torchrun and Axolotl would take c10d."""
    run = pytest.importorskip("torch.distributed.run")
    command = torchrun_command(Run(tmp_path), _THREE, _NODE)
    parsed = run.get_args_parser().parse_args(command[3:])
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.node_rank) == ("3", "4", 2)
    assert (parsed.rdzv_backend, parsed.rdzv_endpoint, parsed.max_restarts) == ("static", "", 0)
    assert (parsed.master_addr, parsed.master_port) == ("node0", 1234)


def test_a_single_machine_needs_no_environment(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model" / "checkpoint-4"
    command = launch_command(
        Run(tmp_path), load_cluster("cpu"), Nodes("torchrun"), resume=checkpoint
    )
    assert "--machine_rank" not in command
    assert "--main_process_port" not in command
    assert command[-1] == f"--resume_from_checkpoint={checkpoint}"


def test_what_the_user_set_stays_and_other_launches_words_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WORLD_SIZE in a plain process makes Axolotl wait for others; RunPod sets it on every node."""
    monkeypatch.setenv("WANDB_DIR", "/w")
    monkeypatch.setenv("AXOLOTL_DO_NOT_TRACK", "0")
    monkeypatch.setenv("WORLD_SIZE", "12")
    environment = launch_environment(Run(tmp_path))
    assert (environment["WANDB_DIR"], environment["AXOLOTL_DO_NOT_TRACK"]) == ("/w", "0")
    assert "WORLD_SIZE" not in environment


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
