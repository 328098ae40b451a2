"""One function reads the variables of every launcher."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.cluster import load_cluster
from multitask.errors import InputError
from multitask.training.nodes import (
    Nodes,
    network_variables,
    node_environment,
    nodes_for,
    read_nodes,
)

_THREE = load_cluster("3x4-a100-80gb")
_ONE = load_cluster("1x8-a100-80gb")

# https://dstack.ai/docs/reference/environment-variables
_DSTACK = {
    "DSTACK_RUN_NAME": "first",
    "DSTACK_NODES_NUM": "3",
    "DSTACK_NODE_RANK": "1",
    "DSTACK_MASTER_NODE_IP": "10.0.0.5",
    "DSTACK_NODES_IPS": "10.0.0.5\n10.0.0.6\n10.0.0.7",
    "DSTACK_GPUS_PER_NODE": "4",
    "DSTACK_GPUS_NUM": "12",
}
# sky/skylet/constants.py of SkyPilot 0.14
_SKYPILOT = {
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6\n10.0.0.7",
    "SKYPILOT_NUM_NODES": "3",
    "SKYPILOT_NUM_GPUS_PER_NODE": "4",
}
# https://docs.runpod.io/instant-clusters
_RUNPOD = {
    "PRIMARY_ADDR": "10.65.0.2",
    "MASTER_ADDR": "10.65.0.2",
    "PRIMARY_PORT": "29400",
    "MASTER_PORT": "29400",
    "NODE_ADDR": "10.65.0.3",
    "NODE_RANK": "1",
    "NUM_NODES": "3",
    "NUM_TRAINERS": "4",
    "HOST_NODE_ADDR": "10.65.0.2:29400",
    "WORLD_SIZE": "12",
}
# https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES
_SLURM = {
    "SLURM_JOB_ID": "41007",
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NODELIST": "gpu-[03-04,09]",
    "SLURM_STEP_NODELIST": "gpu-[03-04,09]",
    "SLURM_GPUS_ON_NODE": "4",
}
# https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
_TORCHRUN = {
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "3",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node-0",
    "MASTER_PORT": "1234",
}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        (_DSTACK, Nodes("dstack", 3, 1, "10.0.0.5", 29500, 4)),
        (_SKYPILOT, Nodes("SkyPilot", 3, 1, "10.0.0.5", 29500, 4)),
        (_RUNPOD, Nodes("RunPod", 3, 1, "10.65.0.2", 29400, 4)),
        (_SLURM, Nodes("Slurm", 3, 1, "gpu-03", 20000 + 41007 % 20000, 4)),
        (_TORCHRUN, Nodes("torchrun", 3, 1, "node-0", 1234, 4)),
        ({"NODE_RANK": "1", "MASTER_ADDR": "a"}, Nodes("torchrun", None, 1, "a")),
        ({}, Nodes("torchrun")),
        # dstack rents RunPod's clusters, whose own numbering of the nodes may be another one.
        (_RUNPOD | {"NODE_RANK": "2"} | _DSTACK, Nodes("dstack", 3, 1, "10.0.0.5", 29400, 4)),
    ],
    ids=["dstack", "SkyPilot", "RunPod", "Slurm", "torchrun", "by hand", "alone", "both"],
)
def test_every_launcher_s_variables_are_one_value(environ: dict[str, str], found: Nodes) -> None:
    assert read_nodes(environ) == found
    if found.rank is not None:
        assert nodes_for(_THREE, environ) == found


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu-[03-05,9],b1", "gpu-03"),
        ("a1,b[2-3]", "a1"),
        ("rack[1-2]n[0-3]", "rack1n0"),
        ("tux[9]", "tux9"),
        ("one.example.org", "one.example.org"),
    ],
)
def test_node_0_is_the_first_of_slurm_s_list(nodes: str, first: str) -> None:
    environ = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": nodes}
    assert read_nodes(environ).master == first


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "NODE_RANK or MASTER_ADDR is not set"),
        ({"NODE_RANK": "0"}, "NODE_RANK or MASTER_ADDR is not set"),
        ({"NODE_RANK": "3", "MASTER_ADDR": "a"}, "this node has rank 3"),
        ({"NODE_RANK": "-1", "MASTER_ADDR": "a"}, "NODE_RANK is '-1'"),
        ({"NODE_RANK": "08", "MASTER_ADDR": "a"}, "NODE_RANK is '08'"),
        ({"NODE_RANK": "a[$(id)]", "MASTER_ADDR": "a"}, r"NODE_RANK is 'a\[\$\(id\)\]'"),
        ({"NODE_RANK": "1", "MASTER_ADDR": "-x y"}, "MASTER_ADDR is '-x y'"),
        ({"NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "70000"}, "MASTER_PORT is '70000'"),
        (_DSTACK | {"DSTACK_NODES_NUM": "2"}, "2 nodes were started, and this run was built for 3"),
        (_SKYPILOT | {"SKYPILOT_NUM_GPUS_PER_NODE": "8"}, "was given 8 GPUs"),
        (_SLURM | {"SLURM_STEP_NUM_NODES": "1"}, "1 nodes were started"),
    ],
)
def test_a_place_that_does_not_fit_the_run_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nodes_for(_THREE, environ)


def test_one_node_needs_nothing_and_refuses_another_s_rank() -> None:
    assert nodes_for(_ONE, {}).rank is None
    with pytest.raises(InputError, match="rank 1, and this run was built for 1 node"):
        nodes_for(_ONE, {"NODE_RANK": "1"})


def test_a_shell_over_ssh_reads_the_container_s_first_process(tmp_path: Path) -> None:
    first = tmp_path / "environ"
    secret = "a=b=\nc"  # values may hold anything but a null byte
    variables = _RUNPOD | {"HF_TOKEN": secret, "HOME": "/wrong", "PATH": "/wrong"}
    first.write_bytes(b"".join(f"{k}={v}".encode() + b"\0" for k, v in variables.items()))
    environ = node_environment({"NODE_RANK": "2", "HOME": "/mine"}, first)
    assert read_nodes(environ) == Nodes("RunPod", 3, 2, "10.65.0.2", 29400, 4)
    assert (environ["HF_TOKEN"], environ["HOME"]) == (secret, "/mine")
    assert "PATH" not in environ


def test_a_runpod_cluster_talks_over_ens1_alone(tmp_path: Path) -> None:
    """Over eth0 NCCL and gloo time out there; elsewhere the interface is found by itself."""
    both = {"NCCL_SOCKET_IFNAME": "ens1", "GLOO_SOCKET_IFNAME": "ens1"}
    assert network_variables(_RUNPOD, nodes=3, interfaces=tmp_path) == {}
    (tmp_path / "ens1").mkdir()
    assert network_variables(_RUNPOD, nodes=3, interfaces=tmp_path) == both
    assert network_variables({"RUNPOD_POD_ID": "x"} | _DSTACK, nodes=3, interfaces=tmp_path) == both
    assert network_variables(_SLURM, nodes=3, interfaces=tmp_path) == {}
    assert network_variables(_RUNPOD, nodes=1, interfaces=tmp_path) == {}
    mine = _RUNPOD | {"NCCL_SOCKET_IFNAME": "eth7", "GLOO_SOCKET_IFNAME": "eth7"}
    assert network_variables(mine, nodes=3, interfaces=tmp_path) == {}
