"""Files to a machine and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from multitask.errors import MultitaskError
from multitask.machine import protocol
from multitask.run import Run
from multitask.runpod import transfer
from multitask.runpod.bundle import Bundle, make_bundle, run_id
from multitask.runpod.control import Control, RefusedError, control_url
from multitask.runpod.rental import results
from multitask.runpod.signals import Signals
from multitask.runpod.transfer import Patience, download, upload
from tests.runpod.fake import FakePod
from tests.runpod.machine import SmallMachine


def no_progress(what: str, done: int, total: int | None, note: str) -> None:
    return


@pytest.fixture
def run(tmp_path: Path) -> Run:
    root = tmp_path / "My Run"
    for name in ("spec.yaml", "data/train.jsonl", "launch/node.sh"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() * 1000)
    (root / "data" / "empty.jsonl").touch()
    for name in ("model/adapter.bin", "logs/a.log", "runpod.json", "report.html", ".x.partial"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("stays here")
    return Run(root)


@contextmanager
def machine_for(bundle: Bundle) -> Iterator[tuple[SmallMachine, Control]]:
    env = {
        protocol.ENV_TOKEN: "secret-token-123456",
        protocol.ENV_BUNDLE: bundle.sha256,
        protocol.ENV_RUN_ID: "x",
        protocol.ENV_DEADLINE: "0",
    }
    machine = SmallMachine(FakePod("p", "multitask-x", "gpu", 1, env, []))
    try:
        with Control(f"http://127.0.0.1:{machine.port}", env[protocol.ENV_TOKEN]) as control:
            yield machine, control
    finally:
        machine.stop()


def patience() -> Patience:
    return Patience(Signals(), 0.001)


def test_a_bundle_is_what_a_training_needs(run: Run) -> None:
    paths = [file["path"] for file in make_bundle(run).files]
    assert paths == ["data/empty.jsonl", "data/train.jsonl", "launch/node.sh", "spec.yaml"]


def test_a_run_s_id_is_the_same_for_the_same_files(run: Run) -> None:
    first = run_id(run, make_bundle(run))
    (run.root / "logs" / "later.log").write_text("x")
    (run.root / "rehearsal").mkdir()
    (run.root / "rehearsal" / "rehearsal.json").write_text("{}")
    assert run_id(run, make_bundle(run)) == first
    assert first.startswith("my-run-")
    assert protocol.check_run_id(first) == first
    run.spec.write_text("other")
    assert run_id(run, make_bundle(run)) != first


def test_uploads_go_on_where_they_were_cut(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_CHUNK", 700)
    bundle = make_bundle(run)
    with machine_for(bundle) as (machine, control):
        machine.parts["data/train.jsonl"] = (run.root / "data/train.jsonl").read_bytes()[:5000]
        upload(control, bundle, patience(), no_progress)
        assert machine.files[protocol.BUNDLE_FILE] == bundle.listing
        for file in bundle.files:
            assert machine.files[file["path"]] == (run.root / file["path"]).read_bytes()


def test_what_is_there_is_not_sent_again(run: Run) -> None:
    bundle = make_bundle(run)
    with machine_for(bundle) as (machine, control):
        upload(control, bundle, patience(), no_progress)
        (run.root / "data" / "train.jsonl").write_text("changed meanwhile")
        upload(control, bundle, patience(), no_progress)
        assert len(machine.files["data/train.jsonl"]) > 1000


def test_a_file_that_changed_since_the_listing_is_refused(run: Run) -> None:
    bundle = make_bundle(run)
    path = run.root / "data" / "train.jsonl"
    path.write_bytes(path.read_bytes()[::-1])
    with machine_for(bundle) as (_, control), pytest.raises(RefusedError, match="another hash"):
        upload(control, bundle, patience(), no_progress)


def test_downloads_go_on_where_they_were_cut(run: Run, tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    with machine_for(make_bundle(run)) as (machine, control):
        machine.files = {"evaluation/test/results.json": content}
        out = tmp_path / "out"
        partial = out / "evaluation" / "test" / ".results.json.partial"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(content[:1000])
        download(control, control.files(), out, patience(), no_progress)
        assert (out / "evaluation" / "test" / "results.json").read_bytes() == content
        assert not partial.exists()


def test_a_wrong_beginning_is_fetched_anew(run: Run, tmp_path: Path) -> None:
    with machine_for(make_bundle(run)) as (machine, control):
        machine.files = {"report.md": b"the report"}
        (tmp_path / ".report.md.partial").write_bytes(b"xxx")
        download(control, control.files(), tmp_path, patience(), no_progress)
    assert (tmp_path / "report.md").read_bytes() == b"the report"


def test_a_file_with_another_hash_gets_no_name(run: Run, tmp_path: Path) -> None:
    with machine_for(make_bundle(run)) as (machine, control):
        machine.files = {"report.md": b"the report"}
        (entry,) = control.files()
        entry["sha256"] = hashlib.sha256(b"other").hexdigest()
        with pytest.raises(MultitaskError, match="another hash"):
            download(control, [entry], tmp_path, patience(), no_progress)
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_machine_cannot_write_outside_of_the_run(run: Run, tmp_path: Path, path: str) -> None:
    entry: protocol.FileEntry = {"path": path, "size": 1, "sha256": "0" * 64, "complete": True}
    with (
        machine_for(make_bundle(run)) as (_, control),
        pytest.raises(MultitaskError, match="outside of the run"),
    ):
        download(control, [entry], tmp_path / "out", patience(), no_progress)


def test_the_control_server_is_behind_runpod_s_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTITASK_PROXY_URL", raising=False)
    assert control_url("abc123") == "https://abc123-8000.proxy.runpod.net"


def listed(*paths: str) -> list[protocol.FileEntry]:
    return [{"path": path, "size": 1, "sha256": "", "complete": True} for path in paths]


FILES = listed(
    "report.html",
    "logs/a",
    "model/adapter.bin",
    "model/checkpoint-9/a",
    "model/checkpoint-10/a",
    ".multitask/state.json",
)


@pytest.mark.parametrize(
    ("model", "stopped", "wanted"),
    [
        (False, False, ["report.html", "logs/a"]),
        (True, False, ["report.html", "logs/a", "model/adapter.bin"]),
        (True, True, ["report.html", "logs/a", "model/adapter.bin", "model/checkpoint-10/a"]),
    ],
)
def test_results_are_all_but_checkpoints_and_the_machine_s_own_files(
    model: bool, stopped: bool, wanted: list[str]
) -> None:
    assert [e["path"] for e in results(FILES, model=model, stopped=stopped)] == wanted
