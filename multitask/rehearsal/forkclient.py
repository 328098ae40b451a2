"""Asks the fork server for a launch, and ends as the launch ends. Imports next to nothing.

Run as a file, without the package: ``python -I -S forkclient.py ADDRESS ARGUMENT...``
"""

import array
import json
import os
import signal
import socket
import sys


def main() -> None:
    """Hand over arguments, environment, folder, output and network; wait for the exit code."""
    # Whoever asks a launch to end asks all its processes; this one waits for the others.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    address, *arguments = sys.argv[1:]
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109
    network = os.open("/proc/self/ns/net", os.O_RDONLY)
    files = array.array("i", [1, 2, network])
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        content = json.dumps(request).encode() + b"\n"
        sent = server.sendmsg([content], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files.tobytes())])
        server.sendall(content[sent:])
        code = server.recv(64)
    if not code:
        sys.stderr.write("the fork server of the rehearsal is gone\n")
        sys.exit(1)
    number = int(code)
    if number < 0:  # ended by a signal: end the same way
        if number != -signal.SIGKILL:  # whose action cannot be set
            signal.signal(-number, signal.SIG_DFL)
        os.kill(os.getpid(), -number)
    sys.exit(number)


if __name__ == "__main__":
    main()
