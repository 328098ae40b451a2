"""The entrypoint as a plain script: a folder for /, an environment in, commands out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docker.dockerfile import ROOT

ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"

# Writes how it was started as a line of JSON; "serve" then ends as CODES says, one a time.
_RECORDER = """#!{python}
import json, os, signal, sys, time
root = os.environ["MULTITASK_ROOT"]
name = os.path.basename(sys.argv[0])
with open(root + "/record", "a") as file:
    file.write(json.dumps([name, sys.argv[1:], dict(os.environ)]) + "\\n")
if name == "id":
    print("0")
if name == "setpriv":
    if os.environ.get("REFUSED") in sys.argv:
        sys.exit(1)
    start = sys.argv.index("env") + 2
    os.execvp(sys.argv[start], sys.argv[start:])
if sys.argv[1:] == ["-m", "multitask.machine", "serve"] and "CODES" in os.environ:
    count = root + "/count"
    number = int(open(count).read()) if os.path.exists(count) else 0
    open(count, "w").write(str(number + 1))
    code = os.environ["CODES"].split(",")[number]
    if code == "wait":
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), os._exit(143)))
        open(root + "/ready", "w").close()
        time.sleep(60)
    sys.exit(int(code))
"""
_TOOLS = ("service", "ssh-keygen", "jupyter", "id", "setpriv", "chown")


class Container:
    """A folder with fake programs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / "workspace" / "axolotl-venv" / "bin" / "python"
        worker = root / "opt" / "multitask" / "worker" / "bin" / "python"
        self.tools = root / "tools"
        for path in [self.python, worker, *(self.tools / tool for tool in _TOOLS)]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_RECORDER.format(python=sys.executable))
            path.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": f"{self.tools}:/usr/bin:/bin",
            "HOME": "/root",
            "MULTITASK_ROOT": str(self.root),
            "MULTITASK_PYTHON": str(self.python),
            "MULTITASK_PREFIX": str(self.root / "opt" / "multitask"),
            "MULTITASK_CRASH_SECONDS": "0",
            **more,
        }

    def start(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(ENTRYPOINT), *(command or ("true",))],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self, name: str) -> list[tuple[list[str], dict[str, str]]]:
        """Arguments and environment of each start of a program, but for trials of Python."""
        record = self.root / "record"
        lines = record.read_text().splitlines() if record.exists() else []
        found = [json.loads(line) for line in lines]
        return [(args, env) for called, args, env in found if called == name and args[:1] != ["-c"]]

    def actions(self) -> list[str]:
        """What the machine's part was asked to do, but for its guard."""
        return [args[-1] for args, _ in self.calls("python") if args[-1] != "guard"]


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_without_a_job_the_command_is_run(container: Container) -> None:
    done = container.start("echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert container.actions() == []


def test_ssh_starts_with_the_given_key(container: Container) -> None:
    container.start(PUBLIC_KEY="ssh-ed25519 AAAA me@home ssh-rsa BBBB other")
    keys = container.root / "root" / ".ssh" / "authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA me@home\nssh-rsa BBBB other\n"
    assert keys.stat().st_mode & 0o777 == 0o600
    assert [args for args, _ in container.calls("service")] == [["ssh", "start"]]


def test_a_container_makes_host_keys_of_its_own_once(container: Container) -> None:
    known = container.root / "etc" / "ssh" / "ssh_host_rsa_key"
    known.parent.mkdir(parents=True)
    known.write_text("the same in every container")
    for _ in range(2):
        container.start(PUBLIC_KEY="ssh-rsa A")
    assert not known.exists()
    assert [args for args, _ in container.calls("ssh-keygen")] == [
        ["-A", "-f", str(container.root)]
    ]


def test_a_shell_takes_what_the_machine_says(container: Container) -> None:
    container.python.write_text("#!/bin/sh\necho export NODE_RANK=2\n")
    done = subprocess.run(
        ["bash", "-c", f". {ROOT}/docker/runpod.sh; echo $NODE_RANK"],
        env=container.environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "2\n"


def test_without_a_key_there_is_no_ssh(container: Container) -> None:
    container.start()
    assert container.calls("service") == []


def test_shells_get_the_clusters_variables_once_and_first(container: Container) -> None:
    (container.root / "root").mkdir()
    (container.root / "root" / ".bashrc").write_text("tmux; exit\n")
    for _ in range(2):
        container.start(PUBLIC_KEY="ssh-rsa A")
    lines = (container.root / "root" / ".bashrc").read_text().splitlines()
    assert lines == [f". {container.root}/opt/multitask/bin/runpod.sh", "tmux; exit"]


def _await(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_jupyter_starts_with_the_password_but_not_in_its_arguments(container: Container) -> None:
    container.start("sleep", "1", JUPYTER_PASSWORD="pass-word-1")
    _await(lambda: container.calls("jupyter"))
    arguments, environment = container.calls("jupyter")[0]
    assert "--port=8888" in arguments
    assert "pass-word-1" not in " ".join(arguments)
    assert environment["JUPYTER_TOKEN"] == "pass-word-1"


def test_without_a_password_there_is_no_jupyter(container: Container) -> None:
    container.start("sleep", "0.5")
    assert container.calls("jupyter") == []


def test_a_job_is_served_with_a_guard_beside_it(container: Container) -> None:
    process = subprocess.Popen(
        ["bash", str(ENTRYPOINT)],
        env=container.environment(MULTITASK_RUN_ID="first", CODES="wait"),
    )
    _await(lambda: len(container.calls("python")) == 2)
    assert sorted(args[-1] for args, _ in container.calls("python")) == ["guard", "serve"]
    _await((container.root / "ready").exists)
    process.terminate()
    assert process.wait(timeout=30) == 143


def test_a_machine_that_is_removed_ends_its_container(container: Container) -> None:
    assert container.start(MULTITASK_RUN_ID="first", CODES="0").returncode == 0
    assert container.actions() == ["serve"]


def test_a_crash_is_started_again(container: Container) -> None:
    assert container.start(MULTITASK_RUN_ID="first", CODES="1,9,0").returncode == 0
    assert container.actions() == ["serve", "serve", "serve"]


def test_a_machine_that_keeps_crashing_is_removed(container: Container) -> None:
    assert container.start(MULTITASK_RUN_ID="first", CODES="1,1,1,1,1").returncode == 1
    assert container.actions() == ["serve"] * 5 + ["remove"]


def test_a_machine_with_a_wrong_job_is_removed_at_once(container: Container) -> None:
    assert container.start(MULTITASK_RUN_ID="first", CODES="2").returncode == 2
    assert container.actions() == ["serve", "remove"]


def test_a_stopped_container_waits_for_the_checkpoint(container: Container) -> None:
    process = subprocess.Popen(
        ["bash", str(ENTRYPOINT)],
        env=container.environment(MULTITASK_RUN_ID="first", CODES="wait"),
    )
    _await((container.root / "ready").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert container.actions() == ["serve"]


def test_a_job_runs_as_the_images_user(container: Container) -> None:
    container.start(MULTITASK_RUN_ID="first", CODES="0")
    started = [args for args, _ in container.calls("setpriv") if args[-1] == "serve"]
    assert started
    assert started[0][:2] == ["--reuid=multitask", "--regid=multitask"]
    assert "HOME=/home/multitask" in started[0]


@pytest.mark.parametrize(("refused", "said"), [("test", "cannot write"), ("-c", "start Python")])
def test_where_that_user_cannot_work_it_is_root_and_said(
    container: Container, refused: str, said: str
) -> None:
    done = container.start(MULTITASK_RUN_ID="first", CODES="0", REFUSED=refused)
    assert done.returncode == 0
    assert said in done.stderr
    assert not any(args[-1] == "serve" for args, _ in container.calls("setpriv"))


def test_a_user_of_ones_own_choice(container: Container) -> None:
    container.start(MULTITASK_RUN_ID="first", CODES="0", MULTITASK_USER="root")
    assert container.calls("setpriv") == []


@pytest.mark.parametrize(
    "variables", [{"MULTITASK_ROLE": "serverless"}, {"RUNPOD_ENDPOINT_ID": "abc"}]
)
def test_a_serverless_worker_is_the_first_process(
    container: Container, variables: dict[str, str]
) -> None:
    container.start(**variables, PUBLIC_KEY="ssh-rsa A", CODES="0")
    (arguments, environment) = container.calls("python")[-1]
    assert arguments == ["-m", "multitask.machine", "serve"]
    assert environment["MULTITASK_ROLE"] == "serverless"
    assert environment["MULTITASK_PYTHON"] == str(container.python)
    assert container.calls("service") == []


def test_a_volume_over_the_environment_is_explained(container: Container) -> None:
    container.python.unlink()
    done = container.start()
    assert done.returncode == 2
    assert "Mount it at /workspace/data" in done.stderr


def test_health_is_that_of_the_machines_process(container: Container) -> None:
    script = ROOT / "docker" / "healthcheck.sh"

    def health() -> int:
        environment = container.environment(NODE_RANK="1")
        return subprocess.run(["bash", str(script)], env=environment, timeout=30).returncode

    assert health() == 0  # a pod without a job
    (container.root / "run").mkdir()
    (container.root / "run" / "multitask.pid").write_text(f"{os.getpid()}\n")
    assert health() == 0
    gone = subprocess.Popen(["true"])
    gone.wait()
    (container.root / "run" / "multitask.pid").write_text(f"{gone.pid}\n")
    assert health() == 1


def test_health_of_node_0_asks_its_server(container: Container) -> None:
    (container.root / "run").mkdir()
    (container.root / "run" / "multitask.pid").write_text(f"{os.getpid()}\n")
    environment = container.environment(MULTITASK_PYTHON=sys.executable, MULTITASK_CONTROL_PORT="9")
    script = ROOT / "docker" / "healthcheck.sh"
    assert subprocess.run(["bash", script], env=environment, capture_output=True).returncode == 1
