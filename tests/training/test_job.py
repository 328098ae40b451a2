"""One command for every node: what it brings, starts and ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from multitask.cluster import load_cluster
from multitask.errors import InputError, MultitaskError
from multitask.run import Run
from multitask.spec import Spec
from multitask.training.job import bring_run, later_commands, run_job


def _source(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "spec.yaml").write_text(Spec(model="x", tasks=("banking77",)).to_yaml())
    (folder / "data" / "train.jsonl").write_text("{}\n")
    return folder


def test_node_0_brings_the_run_and_the_others_wait_for_it(tmp_path: Path) -> None:
    source, root = _source(tmp_path / "source"), tmp_path / "volume" / "runs" / "first"
    waits = threading.Thread(target=bring_run, args=(source, root), kwargs={"leads": False})
    waits.start()
    assert not root.exists()
    bring_run(source, root, leads=True)
    waits.join(30)
    assert not waits.is_alive()
    assert (root / "data" / "train.jsonl").read_text() == "{}\n"


def test_a_retry_keeps_what_lies_on_the_volume(tmp_path: Path) -> None:
    source, root = _source(tmp_path / "source"), tmp_path / "first"
    bring_run(source, root, leads=True)
    checkpoint = root / "model" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    bring_run(source, root, leads=True)
    assert checkpoint.is_dir()


@pytest.mark.parametrize("leads", [True, False])
def test_another_run_on_the_volume_is_refused(tmp_path: Path, leads: bool) -> None:
    source, root = _source(tmp_path / "source"), tmp_path / "first"
    bring_run(source, root, leads=True)
    (source / "data" / "train.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(InputError, match=r"another run there: data/train.jsonl differs"):
        bring_run(source, root, leads=leads)


def test_a_node_without_the_same_volume_says_so(tmp_path: Path) -> None:
    source = _source(tmp_path / "source")
    with pytest.raises(MultitaskError, match="mount one volume at the same path"):
        bring_run(source, tmp_path / "first", leads=False, patience=0.0)


def test_all_gpus_evaluate_and_hub_pushes() -> None:
    run, spec = Run(Path("r")), Spec(model="x", tasks=("banking77",))
    report = ["report", "r"]
    assert later_commands(run, spec, 1) == [["evaluate", "r"], report]
    pushed = spec.model_copy(update={"hub": {"repo": "me/x"}})
    assert later_commands(run, pushed, 8) == [
        ["evaluate", "r", "--processes", "8"],
        report,
        ["push", "r"],
    ]


def test_only_node_0_does_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _source(tmp_path / "run")
    cluster = load_cluster("3x4-a100-80gb").model_copy(update={"gpus_per_node": 1})
    (root / "cluster.yaml").write_text(json.dumps(cluster.model_dump(exclude_none=True)))
    spec = Spec(model="x", tasks=("banking77",), cluster="cluster.yaml")
    (root / "spec.yaml").write_text(spec.to_yaml())
    said: list[str] = []
    for name, value in {"DSTACK_NODES_NUM": "3", "DSTACK_NODE_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DSTACK_MASTER_NODE_IP", "10.0.0.1")
    trained: list[Path] = []
    assert run_job(root, None, train=lambda run: trained.append(run.root), say=said.append) == 0
    assert trained == [root]
    assert said == ["node 2 of 3 (dstack); node 0 is 10.0.0.1", "trained; node 0 evaluates"]
    monkeypatch.setenv("DSTACK_NODE_RANK", "0")
    # Nothing is trained, so the first command that follows fails, with its own code.
    assert run_job(root, None, train=lambda _run: None, say=said.append) == 2
    assert said[-1] == f"multitask evaluate {root}"


def test_the_command_line_ends_with_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "multitask", "job", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "no such spec file" in done.stderr
