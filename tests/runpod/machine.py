"""A rented machine in small: its control server, and a job that a test steers."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from multitask.machine import protocol
from tests.runpod.fake import FakePod

RESULTS = {
    "evaluation/test/results.json": b'{"tasks": {}}',
    "report.html": b"<html>report</html>" * 500,
    "report.md": b"# report",
    "logs/trainer.jsonl": b'{"step": 1}\n',
    "model/adapter_model.safetensors": b"final adapter" * 100,
    "model/checkpoint-5/trainer_state.json": b"{}",
}


class SmallMachine:
    """Node 0 of a job.

    Attributes:
        steps: Steps of its training.
        hold: While set, the training stands still; cleared, it goes on.
        ending: The phase that it ends in.
    """

    def __init__(self, pod: FakePod, *, hold: bool = False, ending: str = "done") -> None:
        self.pod = pod
        self.token = pod.env[protocol.ENV_TOKEN]
        self.bundle = pod.env[protocol.ENV_BUNDLE]
        self.files: dict[str, bytes] = {}
        self.parts: dict[str, bytes] = {}
        self.events: list[dict[str, Any]] = []
        self.phase, self.step, self.error = "waiting", 0, None
        self.started = self.released = self.stopped = False
        self.ending = ending
        self.hold = threading.Event()
        if hold:
            self.hold.set()
        self.lock = threading.Lock()
        self.off = threading.Event()
        handler = type("Handler", (_Control,), {"machine": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.port: int | None = self.server.server_port
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def stop(self) -> None:
        self.off.set()
        self.port = None
        self.server.shutdown()
        self.server.server_close()

    def set_phase(self, phase: str) -> None:
        with self.lock:
            self.phase = phase
            self.events.append({"time": time.time(), "kind": "phase", "phase": phase})

    def start(self) -> None:
        if not self.started:
            self.started = True
            threading.Thread(target=self._train, daemon=True).start()

    def _train(self) -> None:
        self.set_phase("training")
        while self.step < 5 and not self.off.is_set():
            if self.stopped:
                self._end("stopped", checkpoint=True)
                return
            if not self.hold.is_set():
                self.step += 1
                with self.lock:
                    self.events.append(
                        {"time": 0.0, "kind": "progress", "step": self.step, "steps": 5}
                    )
            time.sleep(0.01)
        if not self.off.is_set():
            self._end(self.ending)

    def _end(self, phase: str, *, checkpoint: bool = False) -> None:
        if phase == "done":
            self.files |= RESULTS
        else:
            self.error = "out of memory" if phase == "failed" else "stopped"
            self.files["logs/train.log"] = b"..."
        if checkpoint:
            self.files["model/checkpoint-3/trainer_state.json"] = b'{"step": 3}'
        self.set_phase(phase)

    def status(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "run_id": self.pod.env[protocol.ENV_RUN_ID],
            "bundle_sha256": self.bundle,
            "nodes_ready": self.pod.nodes,
            "nodes": self.pod.nodes,
            "step": self.step,
            "steps": 5,
            "epoch": None,
            "loss": 1.5 if self.step else None,
            "tasks": {},
            "attempt": 1,
            "restarts": 0,
            "error": self.error,
            "exit_code": None,
            "deadline": float(self.pod.env[protocol.ENV_DEADLINE]),
            "cost_so_far": 0.0,
            "events": len(self.events),
        }


class _Control(BaseHTTPRequestHandler):
    machine: SmallMachine
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:  # noqa: C901  # one line a path
        machine, parts = self.machine, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if parts.path == "/health":
            return self._json(200, {"ok": True, "version": "0.1.0"})
        if self.headers.get("Authorization") != f"Bearer {machine.token}":
            return self._json(401, {"error": "wrong or no token"})
        name = unquote(parts.path.removeprefix("/files/"))
        match (self.command, parts.path.split("/")[1]):
            case ("GET", "status"):
                return self._json(200, machine.status())
            case ("GET", "events"):
                start = int(query["from"])
                end = time.monotonic() + min(float(query["wait"]), 0.05)
                while len(machine.events) <= start and time.monotonic() < end:
                    time.sleep(0.005)
                events = machine.events[start:]
                return self._json(200, {"events": events, "next": start + len(events)})
            case ("GET", "logs"):
                log = b"".join(b"step %d\n" % step for step in range(machine.step))
                text = log[int(query["from"]) :]
                return self._send(200, text, {"X-Next": str(len(log))})
            case ("GET", "files") if parts.path == "/files":
                return self._json(200, {"files": _entries(machine)})
            case ("GET", "files"):
                return self._file(machine.files.get(name))
            case ("PUT", "files"):
                return self._put(name, query, body)
            case ("POST", "start"):
                wanted = json.loads(machine.files.get(protocol.BUNDLE_FILE, b"[]"))
                missing = [row["path"] for row in wanted if row["path"] not in machine.files]
                if missing or not wanted:
                    return self._json(409, {"error": "files are missing", "missing": missing})
                machine.start()
            case ("POST", "stop"):
                machine.stopped = True
            case ("POST", "release"):
                machine.released = True
            case _:
                return self._json(404, {"error": "no such path"})
        return self._json(202, {})

    def _put(self, name: str, query: dict[str, str], body: bytes) -> None:
        machine = self.machine
        have = machine.parts.get(name, b"")
        if int(query["offset"]) != len(have):
            error = {"error": "another offset", "received": len(have)}
            return self._json(409, error)
        have += body
        machine.parts[name] = have
        if len(have) == int(query["size"]):
            if hashlib.sha256(have).hexdigest() != query["sha256"]:
                del machine.parts[name]
                return self._json(422, {"error": "another hash"})
            machine.files[name] = machine.parts.pop(name)
        return self._json(200, {"received": len(have)})

    def _file(self, content: bytes | None) -> None:
        if content is None:
            return self._json(404, {"error": "no such file"})
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(200, content, {})
        start = int(wanted[1])
        where = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(206, content[start:], {"Content-Range": where})

    def _json(self, status: int, content: object) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _entries(machine: SmallMachine) -> list[dict[str, Any]]:
    whole = [
        {
            "path": path,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "complete": True,
        }
        for path, content in machine.files.items()
    ]
    parts = [
        {"path": path, "size": len(content), "sha256": "", "complete": False}
        for path, content in machine.parts.items()
    ]
    return whole + parts
