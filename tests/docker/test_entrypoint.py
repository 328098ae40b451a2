"""The entrypoint as a plain script: a folder for /, an environment in, commands out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docker.dockerfile import ROOT

ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"

# Writes how it was started as a line of JSON; a job ends as CODE says, or when it is asked to.
_RECORDER = """#!{python}
import json, os, signal, sys, time
root = os.environ["MULTITASK_ROOT"]
with open(root + "/record", "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], dict(os.environ)]) + "\\n")
if "job" in sys.argv:
    if os.environ["CODE"] == "wait":
        signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), os._exit(130)))
        open(root + "/ready", "w").close()
        time.sleep(60)
    sys.exit(int(os.environ["CODE"]))
if sys.argv[1].endswith("guard.py"):
    sys.exit(int(os.environ.get("GUARD", "0")))
"""
_TOOLS = ("service", "ssh-keygen", "jupyter")


class Container:
    """A folder with fake programs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / "workspace" / "axolotl-venv" / "bin" / "python"
        self.tools = root / "tools"
        for path in [self.python, *(self.tools / tool for tool in _TOOLS)]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_RECORDER.format(python=sys.executable))
            path.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": f"{self.tools}:/usr/bin:/bin",
            "HOME": "/root",
            "MULTITASK_ROOT": str(self.root),
            "MULTITASK_PYTHON": str(self.python),
            **more,
        }

    def start(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(ENTRYPOINT), *(command or ("true",))],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def calls(self, name: str) -> list[tuple[list[str], dict[str, str]]]:
        """Arguments and environment of each start of a program."""
        record = self.root / "record"
        lines = record.read_text().splitlines() if record.exists() else []
        found = [json.loads(line) for line in lines]
        return [(args, env) for called, args, env in found if called == name]


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_the_command_is_run(container: Container) -> None:
    done = container.start("echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")


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


def test_without_a_key_there_is_no_ssh(container: Container) -> None:
    container.start()
    assert container.calls("service") == []


def _await(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 120
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


def test_a_run_s_job_is_done_and_then_people_are_awaited(container: Container) -> None:
    done = container.start("echo", "waiting", RUN="/workspace/data/runs/first", CODE="1")
    assert (done.returncode, done.stdout) == (0, "waiting\n")
    assert [arguments for arguments, _ in container.calls("python")] == [
        ["-m", "multitask", "job", "/workspace/data/runs/first"]
    ]
    assert "exit code 1; this machine bills until you remove it" in done.stderr


def test_a_stopped_container_waits_for_the_checkpoint(container: Container) -> None:
    process = subprocess.Popen(
        ["bash", str(ENTRYPOINT), "false"], env=container.environment(RUN="r", CODE="wait")
    )
    _await((container.root / "ready").exists)
    process.terminate()
    assert process.wait(timeout=120) == 130


def test_a_limit_is_checked_first_and_guarded_with_the_job(container: Container) -> None:
    assert container.start(RUN="r", CODE="0", MULTITASK_MAX_HOURS="x", GUARD="2").returncode == 2
    assert len(container.calls("python")) == 1
    container.start("sleep", "1", RUN="r", CODE="0", MULTITASK_MAX_HOURS="2")
    guarded = [args[1:] for args, _ in container.calls("python") if args[0].endswith("guard.py")]
    assert guarded[:2] == [["check"], ["check"]]
    assert guarded[2][0].isdigit()


def test_the_job_has_what_axolotl_s_entrypoint_sources(container: Container) -> None:
    script = container.root / "workspace" / "axolotl" / "scripts" / "cuda13_env.sh"
    script.parent.mkdir(parents=True)
    script.write_text("export LD_LIBRARY_PATH=/cu13/lib:${LD_LIBRARY_PATH:-}\n")
    container.start(RUN="r", CODE="0", LD_LIBRARY_PATH="/lib")
    assert container.calls("python")[0][1]["LD_LIBRARY_PATH"] == "/cu13/lib:/lib"
    # A launcher that starts bash in the entrypoint's place, and bash in bash.
    done = subprocess.run(
        ["bash", "-c", "bash -c 'echo $LD_LIBRARY_PATH'"],
        env=container.environment(BASH_ENV=str(ROOT / "docker" / "environment.sh")),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "/cu13/lib:\n"


def test_ssh_shells_have_the_image_s_variables_once_and_before_tmux(container: Container) -> None:
    (container.root / "root").mkdir()
    (container.root / "root" / ".bashrc").write_text("tmux; exit\n")
    for _ in range(2):
        container.start(PUBLIC_KEY="ssh-rsa A", HF_TOKEN="a b'c", RANK="3")
    file = container.root / "etc" / "rp_environment"
    lines = (container.root / "root" / ".bashrc").read_text().splitlines()
    assert lines == [f". {file}", "tmux; exit"]
    assert file.stat().st_mode & 0o777 == 0o600
    shell = subprocess.run(
        ["bash", "-c", f". {file}; printf %s \"$HF_TOKEN$RANK\""], capture_output=True, text=True,
        env={},
    )  # fmt: skip
    assert shell.stdout == "a b'c"


def test_a_volume_over_the_environment_is_explained(container: Container) -> None:
    container.python.unlink()
    done = container.start()
    assert done.returncode == 2
    assert "Mount it at /workspace/data" in done.stderr
