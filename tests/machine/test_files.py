"""Uploads and listings: whole files or none, and nothing outside the run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from multitask.machine.files import Files, RefusedError
from multitask.machine.protocol import BUNDLE_FILE, MAX_CHUNK, bundle_json, bundle_sha256
from tests.machine.conftest import FILES, bundle_of

DATA = FILES["data/train.jsonl"]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(files: Files, path: str, data: bytes, offset: int = 0, size: int | None = None) -> int:
    """A chunk of the file of the bundle, or a whole other one."""
    whole = FILES.get(path, data)
    return files.put(path, offset, len(whole) if size is None else size, sha(whole), data)


def refusal(files: Files, path: str, data: bytes, **more: int) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        put(files, path, data, **more)
    return caught.value


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """With the bundle's list uploaded."""
    listing = bundle_json(bundle_of(FILES))
    made = Files(tmp_path / "run", bundle_sha256(bundle_of(FILES)))
    made.put(BUNDLE_FILE, 0, len(listing), sha(listing), listing)
    return made


def test_a_file_comes_in_chunks(files: Files) -> None:
    for offset in range(0, len(DATA), 10_000):
        put(files, "data/train.jsonl", DATA[offset : offset + 10_000], offset)
    assert (files.root / "data" / "train.jsonl").read_bytes() == DATA


def test_a_file_is_not_there_before_it_is_whole(files: Files) -> None:
    put(files, "data/train.jsonl", DATA[:100])
    assert not (files.root / "data" / "train.jsonl").exists()
    entry = next(f for f in files.entries("data/") if f["path"] == "data/train.jsonl")
    assert (entry["size"], entry["complete"]) == (100, False)


def test_a_chunk_that_begins_elsewhere_is_told_where_to_go_on(files: Files) -> None:
    put(files, "data/train.jsonl", DATA[:100])
    error = refusal(files, "data/train.jsonl", DATA[200:300], offset=200)
    assert (error.status, error.received) == (409, 100)


def test_a_repeated_last_chunk_changes_nothing(files: Files) -> None:
    put(files, "spec.yaml", FILES["spec.yaml"])
    assert put(files, "spec.yaml", FILES["spec.yaml"]) == len(FILES["spec.yaml"])


def test_a_file_with_another_hash_is_dropped_and_can_be_sent_again(files: Files) -> None:
    wrong = b"x" * len(FILES["spec.yaml"])
    assert refusal(files, "spec.yaml", wrong).status == 422
    assert not (files.root / "spec.yaml").exists()
    put(files, "spec.yaml", FILES["spec.yaml"])
    assert (files.root / "spec.yaml").read_bytes() == FILES["spec.yaml"]


def test_only_the_files_of_the_bundle_are_taken(files: Files) -> None:
    assert refusal(files, "other.txt", b"x").status == 409


def test_before_the_list_nothing_is_taken(tmp_path: Path) -> None:
    empty = Files(tmp_path / "run", "0" * 64)
    assert refusal(empty, "spec.yaml", FILES["spec.yaml"]).status == 409
    assert refusal(empty, BUNDLE_FILE, b"[]").status == 409
    assert empty.missing() == [BUNDLE_FILE]


def test_a_list_cannot_name_the_machines_own_files(tmp_path: Path) -> None:
    listing = bundle_json(bundle_of({"machine/order.json": b"{}"}))
    made = Files(tmp_path / "run", sha(listing))
    with pytest.raises(RefusedError, match="the machine's own"):
        made.put(BUNDLE_FILE, 0, len(listing), sha(listing), listing)
    assert not (made.root / BUNDLE_FILE).exists()


def test_more_than_the_files_size_is_refused(files: Files) -> None:
    assert refusal(files, "spec.yaml", FILES["spec.yaml"] + b"x").status == 400


def test_a_long_chunk_is_refused(files: Files) -> None:
    assert refusal(files, "data/train.jsonl", bytes(MAX_CHUNK + 1)).status == 413


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "data/../../x", "data//x", ""])
def test_paths_that_leave_the_run_are_refused(files: Files, path: str) -> None:
    assert refusal(files, path, b"x").status == 400
    with pytest.raises(RefusedError):
        files.open(path)


def test_nothing_is_written_or_read_through_a_link(files: Files, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (files.root / "data").symlink_to(outside)
    assert refusal(files, "data/train.jsonl", DATA).status == 400
    with pytest.raises(RefusedError, match="link"):
        files.open("data/secret")
    assert [f["path"] for f in files.entries("data")] == []
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_the_machines_own_files_are_not_served(files: Files) -> None:
    (files.root / "machine").mkdir(exist_ok=True)
    (files.root / "machine" / "state.json").write_text("{}")
    with pytest.raises(RefusedError) as caught:
        files.open("machine/state.json")
    assert caught.value.status == 404
    assert [f["path"] for f in files.entries("machine")] == []


def test_missing_files_are_named(files: Files) -> None:
    put(files, "spec.yaml", FILES["spec.yaml"])
    assert files.missing() == sorted(set(FILES) - {"spec.yaml"})


def test_a_listing_has_hashes_of_files_as_they_are(files: Files) -> None:
    path = files.root / "report.html"
    path.write_text("one")
    assert [f["sha256"] for f in files.entries("report")] == [sha(b"one")]
    path.write_text("other")
    assert [f["sha256"] for f in files.entries("report")] == [sha(b"other")]


def test_launch_scripts_can_be_run(files: Files) -> None:
    put(files, "launch/node.sh", FILES["launch/node.sh"])
    assert os.access(files.root / "launch" / "node.sh", os.X_OK)
