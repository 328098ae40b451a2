"""What is found wrong with machines before they train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multitask.machine.checks import (
    Wanted,
    count_gpus,
    find_problems,
    gather,
    is_settled,
    verify_bundle,
)
from multitask.machine.protocol import bundle_json, bundle_sha256
from tests.machine.conftest import FILES, bundle_of

BUNDLE = "b" * 64
NONCES = {0: "zero", 1: "one", 2: "two"}
WANTED = Wanted(BUNDLE, gpus=4, checkpoint_gb=30.0)


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "seen": {"0": "zero", "1": "one", "2": "two"},
        "bundle": BUNDLE,
        "wrong": [],
        "versions": {"torch": "2.12.0", "axolotl": "0.19.0"},
        "gpus": 4,
        "free_gb": 500.0,
    } | changes


def problems(**changed: dict[str, Any] | None) -> str:
    """With node 1 changed."""
    answers: dict[int, dict[str, Any] | None] = {0: facts(), 1: facts(), 2: facts()}
    answers[1] = changed.get("node1", facts())
    return "\n".join(find_problems(WANTED, NONCES, answers))


def test_like_machines_are_fit() -> None:
    assert problems() == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seen": {"0": "zero", "1": "one"}}, "node 1 does not see what the other nodes write"),
        ({"seen": {"0": "old", "1": "one", "2": "two"}}, "give all of them the same network"),
        ({"bundle": "c" * 64}, "node 1 has another bundle"),
        ({"wrong": ["axolotl.yaml"]}, "node 1 has 1 files that are missing or differ"),
        ({"gpus": 8}, "node 1 has 8 GPUs and the run was built for 4 in each node"),
        ({"free_gb": 59.0}, "node 1 has 59.0 GB free on its volume, and two checkpoints take 60.0"),
        ({"versions": {"torch": "2.11.0", "axolotl": "0.19.0"}},
         "torch differs: 2.12.0 on node 0, 2; 2.11.0 on node 1"),
    ],
)  # fmt: skip
def test_what_differs_is_named_with_its_node(change: dict[str, Any], said: str) -> None:
    assert said in problems(node1=facts(**change))


def test_a_node_that_does_not_answer_is_named() -> None:
    assert "node 1 cannot be seen from node 0" in problems(node1=None)


def test_a_checkpoint_of_unknown_size_needs_no_room() -> None:
    answers = {0: facts(free_gb=0.1, seen={"0": "zero"})}
    assert find_problems(Wanted(BUNDLE, 4, None), {0: "zero"}, answers) == []


def test_a_node_that_came_up_after_anothers_answer_unsettles_it() -> None:
    assert is_settled(NONCES, {0: facts(), 1: facts(), 2: facts()})
    assert not is_settled(NONCES | {2: "again"}, {0: facts(), 1: facts(), 2: facts()})
    assert not is_settled(NONCES, {0: facts(), 1: None, 2: facts()})


def _bundle(root: Path) -> str:
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (root / "bundle.json").write_bytes(bundle_json(bundle_of(FILES)))
    return bundle_sha256(bundle_of(FILES))


def test_a_whole_bundle_is_its_hash(tmp_path: Path) -> None:
    digest = _bundle(tmp_path)
    assert verify_bundle(tmp_path) == (digest, [])


def test_files_that_are_missing_changed_or_links_are_found(tmp_path: Path) -> None:
    _bundle(tmp_path)
    (tmp_path / "spec.yaml").write_bytes(b"model: y\n")  # as long as before
    (tmp_path / "axolotl.yaml").unlink()
    target = tmp_path / "elsewhere"
    (tmp_path / "data" / "train.jsonl").rename(target)
    (tmp_path / "data" / "train.jsonl").symlink_to(target)
    assert verify_bundle(tmp_path)[1] == ["axolotl.yaml", "data/train.jsonl", "spec.yaml"]


def test_without_a_list_there_is_no_hash(tmp_path: Path) -> None:
    assert verify_bundle(tmp_path) == ("", [])


def test_gpus_are_those_that_the_driver_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\n"
        'echo "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-0)"\n'
        'echo "  MIG 1g.10gb Device 0: (UUID: MIG-0)"\n'
        'echo "GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-1)"\n'
    )
    smi.chmod(0o755)
    assert count_gpus() == 2


def test_a_node_looks_at_itself(tmp_path: Path) -> None:
    digest = _bundle(tmp_path)
    found = gather(tmp_path, {0: "zero"})
    assert found.bundle == digest
    assert found.seen == {"0": "zero"}
    assert found.versions["multitask"]
    assert found.free_gb > 0
