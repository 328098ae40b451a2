"""A process that has imported Axolotl once, and forks every launch of a rehearsal from there.

A rehearsal launches often: each node, each training, each restart. Importing Axolotl takes longer
than the steps do, so one server imports it, and what a supervisor starts is a small program
(:mod:`multitask.rehearsal.forkclient`) that asks for a fork and waits for its exit code. The fork
gets the client's arguments, environment, folder, output and network namespace.

Supervisors find the processes of a launch by their environment in ``/proc``. A fork would show
that of the server, so the server is started with a variable that holds room for others, and each
fork writes its own there.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from multitask.errors import MultitaskError

Launch = Callable[[Sequence[str]], int]

# Room for the variables by which processes are found; their values hold paths.
ROOM_VARIABLE = "MULTITASK_FORK_ROOM"
ROOM = 16384
VISIBLE = "MULTITASK_"

_CLONE_NEWNET = 0x40000000
_POLL_SECONDS = 0.05
_MESSAGE = 1 << 20


class Forkserver:
    """The server as the rehearsal sees it. Use it as a context manager: no fork outlives it."""

    def __init__(self, log: Path) -> None:
        """Start the server, which imports in the background.

        Args:
            log: Where it says what went wrong.
        """
        self.log = log
        # A short path: the name of a socket holds 107 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="multitask-")
        self.address = Path(self._folder.name) / "forks"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "multitask.rehearsal.forkserver", str(self.address)]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # its end tells the server that we are gone
                stdout=subprocess.PIPE,
                stderr=file,
                env=dict(os.environ) | {ROOM_VARIABLE: "." * ROOM},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it has imported everything.

        Raises:
            MultitaskError: It cannot.
        """
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != b"ready":
            text = self.log.read_text(encoding="utf-8", errors="replace").strip()
            raise MultitaskError(
                f"Axolotl cannot be imported: {(text or 'no message').splitlines()[-1]}",
                where=self.log,
                fix="install multitask[train]",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def main() -> None:
    """Serve a rehearsal: import Axolotl, say so, and fork nodes' launches."""
    from multitask.rehearsal.agent import launch, prepare

    parser = argparse.ArgumentParser(prog="multitask.rehearsal.forkserver", description=__doc__)
    parser.add_argument("address", help="where to listen")
    serve(parser.parse_args().address, prepare, launch)


def serve(address: str, prepare: Callable[[], None], launch: Launch) -> None:
    """Prepare, write ``ready`` to standard output, and fork until standard input ends.

    Args:
        address: The path of the socket to listen on.
        prepare: Called once, before any fork.
        launch: Called in each fork with its arguments; gives its exit code.
    """
    # A Ctrl-C reaches the rehearsal, which ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    ready = os.dup(1)
    os.dup2(2, 1)  # what imports print is not for the rehearsal
    prepare()
    os.write(ready, b"ready\n")
    os.close(ready)
    _Server(listener, launch).serve()


class _Server:
    """Forks for clients, and tells each how its fork ended."""

    def __init__(self, listener: socket.socket, launch: Launch) -> None:
        self._listener, self._launch = listener, launch
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(0, selectors.EVENT_READ)
        self._clients: dict[int, socket.socket] = {}

    def serve(self) -> None:
        """Until standard input ends."""
        while True:
            for key, _ in self._selector.select(_POLL_SECONDS):
                if key.fileobj == 0:
                    for pid in self._clients:
                        _kill(pid)
                    return
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._lost(key.data)
            self._reap()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        request = _receive(client)
        if request is None:
            client.close()
            return
        message, files = request
        pid = os.fork()
        if pid == 0:
            others = [self._listener, client, *self._clients.values()]
            _become(message, files, others, self._launch)
        for file in files:
            os.close(file)
        self._clients[pid] = client
        self._selector.register(client, selectors.EVENT_READ, data=pid)

    def _lost(self, pid: int) -> None:
        """A client says nothing after its request: it was killed."""
        _kill(pid)
        self._selector.unregister(self._clients[pid])

    def _reap(self) -> None:
        for pid in list(self._clients):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            client = self._clients.pop(pid)
            with contextlib.suppress(KeyError):
                self._selector.unregister(client)
            with contextlib.suppress(OSError):
                client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            client.close()


def _receive(client: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """A request: arguments, environment and folder; files of output, error and namespace.

    None where the client was killed before it had said all: nobody waits for an answer.
    """
    handles = array.array("i")
    data, ancillary, _, _ = client.recvmsg(_MESSAGE, socket.CMSG_LEN(3 * handles.itemsize))
    for _level, _kind, content in ancillary:
        handles.frombytes(content)
    while not data.endswith(b"\n"):
        more = b""
        with contextlib.suppress(ConnectionError):
            more = client.recv(_MESSAGE)
        if not more:
            for handle in handles:
                os.close(handle)
            return None
        data += more
    return json.loads(data), list(handles)


def _become(
    message: dict[str, Any], files: list[int], others: list[socket.socket], launch: Launch
) -> None:
    """In the fork: be the process that the client would have been; never returns."""
    code = 1
    try:
        os.setsid()
        for other in others:
            other.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        for file, standard in ((null, 0), (files[0], 1), (files[1], 2)):
            os.dup2(file, standard)
        _enter_network(files[2])
        environment = {str(name): str(value) for name, value in message["environment"].items()}
        show(environment)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(message["folder"])
        code = launch(message["arguments"])
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001 (a fork must never return into the server)
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _enter_network(handle: int) -> None:
    """Join the client's network namespace, where it is another one."""
    here = Path("/proc/self/ns/net").stat()
    there = os.fstat(handle)
    if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot join the node's network: {os.strerror(number)}")


def show(environment: dict[str, str]) -> None:
    """Let ``/proc/PID/environ`` of this process and its forks show our variables.

    The kernel reads it from where the variables lay when the program started; the room that was
    kept there is written over.

    Args:
        environment: Variables; those of ours are shown.

    Raises:
        ValueError: There is no room for them.
    """
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    value = libc.getenv(ROOM_VARIABLE.encode())
    lines = [f"{name}={text}" for name, text in environment.items() if name.startswith(VISIBLE)]
    content = "\0".join(lines).encode()
    size = len(ROOM_VARIABLE) + 1 + ROOM
    if value is None or len(content) >= size:
        raise ValueError(f"no room for {len(content)} bytes of variables")
    ctypes.memmove(value - len(ROOM_VARIABLE) - 1, content.ljust(size, b"\0"), size)


def _kill(pid: int) -> None:
    """Kill a fork and what it started; all of it is in the fork's process group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # so young that it has no group of its own yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
