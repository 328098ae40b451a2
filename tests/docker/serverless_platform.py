"""A small server on loopback that speaks what RunPod's SDK asks of the serverless platform."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ServerlessPlatform:
    """Jobs to hand out and what came of them.

    Attributes:
        jobs: Not taken yet.
        stop: Ids of jobs to be cancelled.
        streamed: What a job has streamed so far.
        done: A job's last word.
    """

    jobs: list[dict[str, Any]] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    streamed: dict[str, list[Any]] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    url: str = ""

    def environment(self) -> dict[str, str]:
        """What a worker is told."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.url}/done/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.url}/stream/$ID?gpu=none",
            "RUNPOD_POD_ID": "worker-1",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }


class _Handler(BaseHTTPRequestHandler):
    platform: ServerlessPlatform
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def do_GET(self) -> None:
        platform = self.platform
        if self.path.startswith("/job-take/") and platform.jobs:
            return self._send(200, platform.jobs.pop(0))
        if self.path.startswith("/job-stop/") and platform.stop:
            stop, platform.stop = platform.stop, []
            return self._send(200, {"jobsToStop": stop})
        time.sleep(0.1)
        return self._send(204, None)

    def do_POST(self) -> None:
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind, name = self.path.strip("/").split("?")[0].split("/")
        if kind == "stream":
            self.platform.streamed.setdefault(name, []).append(data["output"])
        elif data.get("status") != "IN_PROGRESS":
            self.platform.done[name] = data
        self._send(200, {})

    def _send(self, status: int, body: object) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serverless_platform() -> Iterator[ServerlessPlatform]:
    """Serve until the block ends."""
    platform = ServerlessPlatform()
    handler = type("Handler", (_Handler,), {"platform": platform})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    platform.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield platform
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
