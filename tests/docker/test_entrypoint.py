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

# Writes how it was started as a line of JSON.
_RECORDER = """#!{python}
import json, os, sys
with open(os.environ["MULTITASK_ROOT"] + "/record", "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], dict(os.environ)]) + "\\n")
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

    def start(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.tools}:/usr/bin:/bin",
            "HOME": "/root",
            "MULTITASK_ROOT": str(self.root),
            "MULTITASK_PYTHON": str(self.python),
            **more,
        }
        return subprocess.run(
            ["bash", str(ENTRYPOINT), *(command or ("true",))],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
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


def test_a_volume_over_the_environment_is_explained(container: Container) -> None:
    container.python.unlink()
    done = container.start()
    assert done.returncode == 2
    assert "Mount it at /workspace/data" in done.stderr
