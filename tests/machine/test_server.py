"""The control server over HTTP, in front of a job that has not been started."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from multitask import __version__
from multitask.machine.job import Job
from multitask.machine.logs import Log
from multitask.machine.protocol import MAX_CHUNK, bundle_sha256
from multitask.machine.server import serve
from multitask.machine.settings import read_settings
from tests.machine.conftest import FILES, Client, bundle_of
from tests.support.machine import FakeCommands

TOKEN = "a-token-of-some-length"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    environ = {
        "MULTITASK_RUN_ID": "job",
        "MULTITASK_BUNDLE_SHA256": bundle_sha256(bundle_of(FILES)),
        "MULTITASK_TOKEN": TOKEN,
        "MULTITASK_VOLUME": str(tmp_path),
    }
    settings = read_settings(environ)
    log = Log(settings.run_root / "machine" / "log.txt", environ)
    return Job(settings, FakeCommands(settings.run_root), log, environ)


@pytest.fixture
def client(job: Job) -> Iterator[Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    end = serve(job, "127.0.0.1", port)
    yield Client(port, TOKEN)
    end()


REQUESTS = [
    ("GET", "/status"),
    ("GET", "/files"),
    ("GET", "/files/spec.yaml"),
    ("PUT", "/files/spec.yaml"),
    ("POST", "/start"),
    ("GET", "/events"),
    ("GET", "/logs"),
    ("POST", "/stop"),
    ("POST", "/release"),
]


def test_health_needs_no_token(client: Client) -> None:
    client.await_health()
    answer = httpx.get(f"http://127.0.0.1:{client.port}/health")
    assert answer.json() == {"ok": True, "version": __version__}


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize("header", ["", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_everything_else_does(client: Client, method: str, path: str, header: str) -> None:
    client.await_health()
    answer = client.ask(method, path, headers={"Authorization": header})
    assert answer.status_code == 401


def test_a_wrong_token_is_no_sign_of_the_client(job: Job, client: Client) -> None:
    client.await_health()
    job._last_client = 0.0
    client.ask("GET", "/status", headers={"Authorization": "Bearer wrong"})
    assert job._last_client == 0.0
    client.status()
    assert job._last_client > 0.0


def test_a_fresh_job_waits(client: Client) -> None:
    client.await_health()
    status = client.status()
    assert (status["phase"], status["nodes_ready"], status["events"]) == ("waiting", 1, 0)


def test_a_start_names_what_is_missing(client: Client) -> None:
    client.await_health()
    digest = bundle_sha256(bundle_of(FILES))
    answer = client.ask("POST", "/start", json={"bundle_sha256": digest})
    assert (answer.status_code, answer.json()["missing"]) == (409, ["bundle.json"])
    assert client.ask("POST", "/start", json={"bundle_sha256": "0" * 64}).status_code == 409


def test_a_start_is_idempotent_and_fixes_the_files(client: Client) -> None:
    client.await_health()
    digest = client.upload(FILES)
    for _ in range(2):
        answer = client.ask("POST", "/start", json={"bundle_sha256": digest})
        assert answer.status_code == 202
    assert client.put("spec.yaml", FILES["spec.yaml"]).status_code == 409


def test_an_upload_that_was_cut_goes_on(client: Client) -> None:
    client.await_health()
    client.upload({"spec.yaml": FILES["spec.yaml"]} | FILES)
    data = FILES["data/train.jsonl"]
    query = {"offset": 5, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    answer = client.ask("PUT", "/files/data/train.jsonl", params=query, content=data[5:9])
    assert answer.json() == {"received": len(data)}


def test_a_body_longer_than_a_chunk_is_refused_whatever_its_header_says(client: Client) -> None:
    client.await_health()
    query = {"offset": 0, "size": 10**9, "sha256": "0" * 64}
    body = (bytes(2**20) for _ in range(MAX_CHUNK // 2**20 + 1))  # sent without a length
    answer = client.ask("PUT", "/files/spec.yaml", params=query, content=body)
    assert answer.status_code == 413


def test_a_download_has_its_hash_and_honours_ranges(client: Client) -> None:
    client.await_health()
    client.upload(FILES)
    data = FILES["data/train.jsonl"]
    whole = client.ask("GET", "/files/data/train.jsonl")
    assert whole.content == data
    assert whole.headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    part = client.ask("GET", "/files/data/train.jsonl", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, data[100:200])


@pytest.mark.parametrize(
    "path", ["%2e%2e/x", "..%2fx", "%2fetc%2fpasswd", "a%00b", "data%5c..%5cx"]
)
def test_paths_that_leave_the_run_are_refused(client: Client, path: str) -> None:
    client.await_health()
    assert client.ask("GET", f"/files/{path}").status_code == 400


def test_what_is_not_there_is_404(client: Client) -> None:
    client.await_health()
    assert client.ask("GET", "/files/none").status_code == 404
    assert client.ask("GET", "/nothing").status_code == 404


@pytest.mark.parametrize("query", ["from=-1", "from=x", "from=1e3", "wait=x"])
def test_wrong_numbers_are_refused(client: Client, query: str) -> None:
    client.await_health()
    assert client.ask("GET", f"/events?{query}").status_code == 400


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"'])
def test_bodies_that_are_no_objects_are_refused(client: Client, body: bytes) -> None:
    client.await_health()
    assert client.ask("POST", "/stop", content=body).status_code == 400


def test_events_wait_for_the_next(job: Job, client: Client) -> None:
    client.await_health()
    timer = threading.Timer(0.3, job.journal.add, ["log"], {"message": "hello"})
    timer.start()
    page = client.ask("GET", "/events", params={"from": 0, "wait": 20}).json()
    assert page["events"][0]["message"] == "hello"
    assert page["next"] == 1
    timer.join()


def test_events_come_without_waiting_where_there_are_some(job: Job, client: Client) -> None:
    client.await_health()
    job.journal.add("log", message="one")
    job.journal.add("log", message="two")
    start = time.monotonic()
    page = client.ask("GET", "/events", params={"from": 1, "wait": 25}).json()
    assert [event["message"] for event in page["events"]] == ["two"]
    assert time.monotonic() - start < 20


def test_logs_are_read_on_from_a_byte(job: Job, client: Client) -> None:
    client.await_health()
    job.log.write("first ä")
    answer = client.ask("GET", "/logs", params={"from": 0})
    assert answer.text == "first ä\n"
    job.log.write("second")
    assert client.ask("GET", f"/logs?from={answer.headers['X-Next']}").text == "second\n"


def test_a_release_is_noted(job: Job, client: Client) -> None:
    client.await_health()
    assert client.ask("POST", "/release").status_code == 202
    assert job.released_at is not None
