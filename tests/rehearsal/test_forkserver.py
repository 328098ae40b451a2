"""The fork server: forks are what their clients would have been, and none outlives the rehearsal.

The server, its clients and forks are real; only what it prepares and launches is small here.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from multitask.errors import MultitaskError
from multitask.rehearsal.forkserver import ROOM, ROOM_VARIABLE, Forkserver
from multitask.training.process import end_processes, processes_with

_CLIENT = Path(__file__).parents[2] / "multitask/rehearsal/forkclient.py"
_SERVER = """
import os, subprocess, sys, time
from multitask.rehearsal.forkserver import serve

def launch(arguments):
    word, *rest = arguments
    if word == "exit":
        return int(rest[0])
    if word == "raise":
        raise ValueError("of the launch")
    if word == "say":
        print(os.getcwd(), os.environ["MULTITASK_TEST"], os.environ.get("HOME"))
        return 0
    if word == "interface":
        print(" ".join(sorted(os.listdir("/sys/class/net"))), os.readlink("/proc/self/ns/net"))
        return 0
    if word == "die":
        os.kill(os.getpid(), int(rest[0]))
    if os.fork() == 0:  # a rank
        time.sleep(600)
    time.sleep(600)

serve(sys.argv[1], lambda: None, launch)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(tmp_path / "s")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ) | {ROOM_VARIABLE: "." * ROOM},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


def _ask(
    folder: Path, *arguments: str, mark: str = "none", **more: object
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_CLIENT), str(folder / "s"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={"MULTITASK_TEST": mark},
        start_new_session=True,
        **more,  # type: ignore[call-overload]
    )


def _until(condition: Callable[[], bool]) -> bool:
    for _ in range(2400):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.usefixtures("server")
class TestFork:
    def test_its_exit_code_is_the_clients(self, tmp_path: Path) -> None:
        assert [_ask(tmp_path, "exit", code).wait() for code in "037"] == [0, 3, 7]

    def test_its_signal_is_the_clients(self, tmp_path: Path) -> None:
        numbers = [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT]
        ended = [_ask(tmp_path, "die", str(int(number))).wait() for number in numbers]
        assert ended == [-number for number in numbers]

    def test_an_error_is_said_where_the_client_says_it(self, tmp_path: Path) -> None:
        client = _ask(tmp_path, "raise")
        output, _ = client.communicate()
        assert client.returncode == 1
        assert "ValueError: of the launch" in output

    def test_it_has_the_clients_folder_and_environment_alone(self, tmp_path: Path) -> None:
        output, _ = _ask(tmp_path, "say", mark="here").communicate()
        assert output.split() == [str(tmp_path.resolve()), "here", "None"]

    def test_it_and_its_ranks_are_found_by_their_environment(self, tmp_path: Path) -> None:
        mark = f"{tmp_path}-a"
        client = _ask(tmp_path, "sleep", mark=mark)
        assert _until(lambda: len(processes_with("MULTITASK_TEST", mark)) == 3)
        end_processes("MULTITASK_TEST", mark)
        assert client.wait() == -signal.SIGTERM  # as the launch itself ended

    def test_a_killed_client_takes_its_fork_along(self, tmp_path: Path) -> None:
        mark = f"{tmp_path}-b"
        client = _ask(tmp_path, "sleep", mark=mark)
        assert _until(lambda: len(processes_with("MULTITASK_TEST", mark)) == 3)
        client.kill()
        assert _until(lambda: not processes_with("MULTITASK_TEST", mark))

    def test_a_client_that_is_killed_before_it_has_asked_disturbs_nobody(
        self, tmp_path: Path
    ) -> None:
        for said in (b"", b'{"arguments": ["ex'):
            with socket.socket(socket.AF_UNIX) as half:
                half.connect(str(tmp_path / "s"))
                half.sendall(said)
        assert _ask(tmp_path, "exit", "3").wait(120) == 3


def test_what_keeps_axolotl_from_being_imported_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "axolotl").mkdir()
    (tmp_path / "axolotl" / "__init__.py").write_text("raise ImportError('a broken wheel')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        Forkserver(tmp_path / "log") as forks,
        pytest.raises(MultitaskError, match=r"cannot be imported: ImportError: a broken wheel"),
    ):
        forks.wait()


def test_no_fork_outlives_the_rehearsal(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    mark = f"{tmp_path}-c"
    client = _ask(tmp_path, "sleep", mark=mark)
    assert _until(lambda: len(processes_with("MULTITASK_TEST", mark)) == 3)
    assert server.stdin is not None
    server.stdin.close()
    assert client.wait(120) == 1
    assert _until(lambda: not processes_with("MULTITASK_TEST", mark))


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_a_fork_joins_the_clients_network(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    assert server.poll() is None
    here = str(Path("/proc/self/ns/net").readlink())
    command = [sys.executable, "-I", "-S", str(_CLIENT), str(tmp_path / "s"), "interface"]
    done = subprocess.run(["unshare", "--net", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] != here
