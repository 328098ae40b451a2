"""What the wire accepts: one form of a bundle's list, and paths that stay inside."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from multitask.machine.protocol import (
    BundleFile,
    bundle_json,
    bundle_sha256,
    check_path,
    check_run_id,
    parse_bundle,
)

A: BundleFile = {"path": "a", "size": 1, "sha256": "0" * 64}
B: BundleFile = {"path": "data/ä", "size": 2, "sha256": "f" * 64}


def test_the_order_of_files_does_not_change_the_hash() -> None:
    assert bundle_sha256([A, B]) == bundle_sha256([B, A])


def test_a_list_survives_the_wire() -> None:
    assert parse_bundle(bundle_json([B, A])) == [A, B]


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[1]",
        json.dumps([A]).encode(),  # with spaces: another form of the same list
        bundle_json([A, A]),
        bundle_json([{**A, "path": "../a"}]),
        bundle_json([{**A, "sha256": "zz"}]),
        bundle_json([{**A, "size": -1}]),
        b"no json",
    ],
)
def test_any_other_list_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_bundle(content)


@pytest.mark.parametrize("path", ["a", "data/train.jsonl", "a.b/c-d_e", "data/ä"])
def test_paths_inside_are_paths(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "/a", "../a", "a/../b", "a//b", "./a", "a/.", "a/", "..", "a\\..\\b", "a\0b", "a\nb",
     "x" * 600, "a/\x7f"],
)  # fmt: skip
def test_all_other_paths_are_none(path: str) -> None:
    with pytest.raises(ValueError, match="no path inside"):
        check_path(path)


@pytest.mark.parametrize("name", ["a", "run-1", "a" * 48])
def test_run_ids(name: str) -> None:
    assert check_run_id(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "a.b", "..", "a" * 49, "a\n"])
def test_no_run_ids(name: str) -> None:
    with pytest.raises(ValueError, match="no run id"):
        check_run_id(name)


def test_a_client_that_imports_the_protocol_imports_nothing_else() -> None:
    code = "import sys, multitask.machine.protocol; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"starlette", "httpx", "pydantic", "yaml", "multitask.machine.settings"}
