"""The guard against a server on loopback in RunPod's place."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from tests.docker.dockerfile import ROOT

GUARD = ROOT / "docker" / "guard.py"


class _RunPod(BaseHTTPRequestHandler):
    """Answers each request with the next status; 404 is what a removed pod gets."""

    statuses: list[int]
    requests: list[tuple[str, str, str | None]]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def do_DELETE(self) -> None:
        self.requests.append((self.command, self.path, self.headers["Authorization"]))
        body = b'{"title": "Forbidden", "detail": "the key may not"}'
        self.send_response(self.statuses.pop(0))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def runpod() -> Iterator[tuple[str, type[_RunPod]]]:
    handler = type("Handler", (_RunPod,), {"statuses": [], "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v2", handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("guard", GUARD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(sys, "argv", ["guard.py"])
    monkeypatch.setenv("RUNPOD_POD_ID", "pod1")
    monkeypatch.setenv("RUNPOD_API_KEY", "key1")
    monkeypatch.setenv("MULTITASK_VOLUME", str(tmp_path / "volume"))
    monkeypatch.setenv("MULTITASK_MAX_HOURS", "0.000001")
    return module


def test_it_asks_until_the_pod_is_gone_and_says_what_refuses(
    guard: ModuleType,
    runpod: tuple[str, type[_RunPod]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, handler = runpod
    monkeypatch.setattr(guard, "API", url)
    handler.statuses += [503, 403, 204, 404]
    guard.main()
    assert handler.requests == [("DELETE", "/v2/pods/pod1", "Bearer key1")] * 4
    said = capsys.readouterr().err
    assert "RunPod REFUSES (503)" in said
    assert "RunPod REFUSES (403)" in said
    assert "the key may not" in said
    assert said.count("POD pod1 STILL BILLS") == 3


def test_a_network_that_is_away_is_said(guard: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "API", "http://127.0.0.1:9/v2")
    assert guard.refusal("pod1", "key1").startswith("RunPod DOES NOT ANSWER")


def test_the_job_is_asked_to_save_first(
    guard: ModuleType, runpod: tuple[str, type[_RunPod]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = runpod
    monkeypatch.setattr(guard, "API", url)
    handler.statuses += [404]
    job = subprocess.Popen(["sleep", "600"])
    monkeypatch.setattr(sys, "argv", ["guard.py", str(job.pid)])
    guard.main()
    assert job.wait(timeout=120) == -signal.SIGTERM


def test_a_container_that_restarts_gains_no_time(guard: ModuleType) -> None:
    first = guard.first_start("pod1")
    assert guard.first_start("pod1") == first
    assert guard.first_start("another") > first
    file = Path(guard.os.environ["MULTITASK_VOLUME"]) / ".guard-pod1"
    file.write_text("nonsense")
    assert abs(guard.first_start("pod1") - time.time()) < 60


@pytest.mark.parametrize("hours", ["", "x", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(
    guard: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hours: str,
) -> None:
    monkeypatch.setenv("MULTITASK_MAX_HOURS", hours)
    with pytest.raises(SystemExit, match="2"):
        guard.main()
    assert f"MULTITASK_MAX_HOURS is {hours!r}" in capsys.readouterr().err


def test_without_a_key_the_limit_cannot_be_kept(
    guard: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    monkeypatch.setattr(sys, "argv", ["guard.py", "check"])
    with pytest.raises(SystemExit, match="2"):
        guard.main()
