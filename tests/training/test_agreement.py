"""Nodes that cannot train together end before anything trains, each difference with its node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from multitask.run import Run
from multitask.training.agreement import (
    Needs,
    NodeFacts,
    count_gpus,
    find_differences,
    gather_facts,
    run_hash,
)
from tests.training.conftest import Start, attempts_of, finish

_SAME = NodeFacts("a" * 64, {"torch": "2.13.0", "peft": "0.20.0"}, 4, 100.0)
_NEEDS = Needs(gpus=4, checkpoint_gb=20.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run": "b" * 64}, ("the run's files differ", "bbbbbbbbbbbb on node 1")),
        (
            {"versions": {"torch": "2.12.1", "peft": "0.20.0"}},
            ("torch differs", "2.12.1 on node 1"),
        ),
        ({"versions": {"torch": "2.13.0"}}, ("peft differs", "none on node 1")),
        ({"gpus": 3}, ("node 1 has 3 GPUs", "built for 4 a node")),
        ({"free_gb": 39.0}, ("node 1 has 39.0 GB free", "two checkpoints take 40.0 GB")),
    ],
)
def test_what_differs_is_named_with_its_node(
    change: dict[str, object], words: tuple[str, ...]
) -> None:
    assert find_differences({0: _SAME, 1: _SAME, 2: _SAME}, _NEEDS) == []
    (problem,) = find_differences({0: _SAME, 1: replace(_SAME, **change), 2: _SAME}, _NEEDS)  # type: ignore[arg-type]
    for word in words:
        assert word in problem.answer


def test_what_is_not_needed_is_not_asked() -> None:
    assert find_differences({0: replace(_SAME, gpus=0, free_gb=0.0)}, Needs()) == []


def test_the_hash_is_of_what_a_training_reads(run: Run, tmp_path: Path) -> None:
    before = run_hash(run)
    run.logs.mkdir()
    run.trainer_events.write_text("{}\n")
    assert run_hash(run) == before
    run.split("train").write_text("{}\n")
    assert run_hash(run) != before


def test_gpus_are_those_that_the_driver_shows_and_the_user_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus({}) == 0
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100'\necho 'GPU 1: NVIDIA A100'\n")
    tool.chmod(0o755)
    assert count_gpus({}) == 2
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "1"}) == 1
    assert count_gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0


def test_a_node_from_another_image_ends_all_nodes_before_the_first_attempt(
    run: Run, start: Start, tmp_path: Path
) -> None:
    """Three real supervisors; the third finds another peft on its path."""
    other = tmp_path / "other" / "peft-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
    nodes = [start(node, 3, path=str(other.parent) if node == 2 else "") for node in range(3)]
    results = [finish(node) for node in nodes]
    assert [code for code, _ in results] == [2, 1, 1], results
    for _, output in results:
        assert "peft differs" in output
        assert "0.0.1 on node 2; start all nodes from one image" in output
    assert len(attempts_of(run)) == 1  # the one that tells the others, over as it begins
    assert not run.trainer_events.exists()
    assert gather_facts(run).versions["peft"] != "0.0.1"
