"""A small server on loopback that speaks the parts of RunPod's API v2 that a machine needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "key-of-the-pod-0123456789"


@dataclass
class PlatformApi:
    """What exists, and how it misbehaves.

    Attributes:
        pods: Pods by id.
        clusters: Clusters by id.
        failures: How many deletions are answered with 503 before one succeeds.
        forbid_clusters: Whether a pod's key may not delete clusters.
        members_stay: Whether a single pod is refused, as RunPod refuses a node of a cluster.
        requests: Every request so far.
        deleted: What was deleted, in order.
    """

    pods: dict[str, dict[str, object]] = field(default_factory=dict)
    clusters: dict[str, dict[str, object]] = field(default_factory=dict)
    failures: int = 0
    forbid_clusters: bool = False
    members_stay: bool = False
    requests: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    api: PlatformApi
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def do_GET(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        api = self.api
        api.requests.append(f"{self.command} {self.path}")
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            return self._send(401, {"title": "Unauthorized"})
        kind, _, name = self.path.removeprefix("/v2/").partition("/")
        things = {"pods": api.pods, "clusters": api.clusters}[kind]
        if self.command == "GET":
            if not name:
                return self._send(200, {kind: list(things.values())})
            return self._send(200, things[name]) if name in things else self._send(404, {})
        if kind == "clusters" and api.forbid_clusters:
            return self._send(403, {"title": "Forbidden"})
        if kind == "pods" and api.members_stay:
            return self._send(409, {"title": "Conflict"})
        if api.failures > 0:
            api.failures -= 1
            return self._send(503, {"title": "Unavailable"})
        if name not in things:
            return self._send(404, {})
        del things[name]
        api.deleted.append(f"{kind}/{name}")
        return self._send(204, None)

    def _send(self, status: int, body: object) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def platform_api() -> Iterator[PlatformApi]:
    """Serve until the block ends."""
    api = PlatformApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}/v2"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
