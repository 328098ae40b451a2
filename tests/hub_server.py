"""A small server on loopback that speaks the parts of the Hub's protocol that a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

H = TypeVar("H", bound=Any)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """Datasets it serves, and how it misbehaves.

    Attributes:
        datasets: Files by repository and name.
        status: An error that a repository is answered with: status and ``X-Error-Code``.
        fail_first: How many requests for files fail with 503 before one succeeds.
        truncate: How many downloads are cut in the middle.
        requests: Every request so far.
    """

    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    status: dict[str, tuple[int, str]] = field(default_factory=dict)
    fail_first: int = 0
    truncate: int = 0
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def counts(self) -> Counter[str]:
        """Requests by method."""
        return Counter(request.split(" ")[0] for request in self.requests)


class Handler(BaseHTTPRequestHandler):
    """What answers for a Hub."""

    hub: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class _Handler(Handler):
    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "datasets"]
        repo = "/".join(parts[2:4] if is_api else parts[1:3])
        if repo in self.hub.status:
            status, code = self.hub.status[repo]
            return self._send(status, b"{}", {"X-Error-Code": code} if code else {})
        if repo not in self.hub.datasets:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = self.hub.datasets[repo]
        if is_api:
            if parts[4:5] == ["revision"] and "/".join(parts[5:]) == "missing":
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            names = [{"rfilename": name} for name in files]
            info = {"id": repo, "sha": COMMIT, "siblings": names, "private": False}
            return self._send(200, json.dumps(info).encode(), {})
        if self.hub.fail_first > 0:
            self.hub.fail_first -= 1
            return self._send(503, b"", {})
        name = "/".join(parts[5:])
        if name not in files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self._send_file(files[name], body)

    def _send_file(self, content: bytes, body: bool) -> None:
        tag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        if body and self.hub.truncate > 0:
            self.hub.truncate -= 1
            self.send_response(200)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            self.connection.close()
            return
        self._send(200, content if body else b"", headers, length=len(content))


@contextmanager
def served(hub: H, handler: type[Handler]) -> Iterator[H]:
    """Serve a Hub on a free port of loopback for the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"hub": hub}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_server(hub: HubServer) -> AbstractContextManager[HubServer]:
    """Serve ``hub`` on a free port of loopback for the block."""
    return served(hub, _Handler)
