"""Interrupted evaluations go on where they stopped; several processes give the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.errors import InputError, MultitaskError
from multitask.evaluation import runner
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.models import model_key
from multitask.evaluation.requests import Settings
from multitask.evaluation.runner import shares
from multitask.run import Run, write_atomic


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the processes that are started here: sums of several threads differ in their last bits."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


QUICK = Settings(baselines=False, generate=5, block=7)
ARGUMENTS = ["--no-baselines", "--generate", "5"]


def _multitask(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "multitask", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def _outcome(run: Run, name: str) -> tuple[dict[str, Any], Any]:
    directory = run.evaluations / name
    tasks = json.loads((directory / "results.json").read_text())["tasks"]
    for task in tasks.values():
        task.pop("seconds"), task.pop("part_seconds"), task["generated"].pop("seconds")
    return tasks, pq.read_table(directory / "predictions.parquet")


def _interrupt_after(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process be interrupted when so many blocks are kept."""
    count = 0

    def interrupted(path: Path, content: bytes) -> None:
        nonlocal count
        if path.suffix == ".npz":
            if count == blocks:
                raise KeyboardInterrupt
            count += 1
        write_atomic(path, content)

    monkeypatch.setattr(runner, "write_atomic", interrupted)


def _second_rank(launcher: int) -> int:
    """The process id of rank 1 of an evaluation in several processes."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (found,) = (
        int(pid) for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    )
    return found


def test_what_two_processes_began_and_lost_ends_as_one_would_have_ended_it(
    trained_copy: Run,
) -> None:
    """A rank is killed for real; a block is torn, as a full disk leaves it; then it goes on."""
    run = trained_copy
    arguments = ["evaluate", run.root, "--name", "two", "--processes", 2, "--permutations"]
    partial = run.evaluations / "two" / "partial"
    with subprocess.Popen(
        [sys.executable, "-m", "multitask", *map(str, [*arguments, *ARGUMENTS])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        while len(list(partial.glob("*.npz"))) < 2:
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(_second_rank(process.pid), signal.SIGKILL)
        assert "error: process 2 of 2 was killed (SIGKILL)" in process.communicate()[1]
        assert process.returncode == 1
    assert not (run.evaluations / "two" / "results.json").exists()
    kept = sorted(partial.glob("*.npz"))
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    done = _multitask(*arguments, *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    whole = len(kept) - 1
    assert f"two: going on where it stopped, with {whole} blocks of rows done" in done.stderr
    assert not partial.exists()
    wanted = replace(QUICK, permutations=True, block=Settings().block)
    evaluate(run, name="one", settings=wanted)
    one, two = _outcome(run, "one"), _outcome(run, "two")
    assert one[0] == two[0]
    assert one[1].equals(two[1])
    results = json.loads((run.evaluations / "two" / "results.json").read_text())
    assert results["processes"] == 2


def test_a_failure_of_processes_is_one_message_and_its_exit_code(tmp_path: Path) -> None:
    done = _multitask("evaluate", tmp_path, "--processes", 2)
    assert done.returncode == 2
    assert done.stderr.count("not a run directory") == 1
    assert "Traceback" not in done.stderr


def test_blocks_that_are_done_are_not_done_again(
    trained_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _interrupt_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(trained_copy, settings=QUICK)
    blocks = {
        path.name: path.stat().st_mtime_ns
        for path in (trained_copy.evaluations / "trained" / "partial").glob("*.npz")
    }
    assert len(blocks) == 5
    seen: list[str] = []

    def watch(path: Path, content: bytes) -> None:
        seen.append(path.name)
        write_atomic(path, content)

    monkeypatch.setattr(runner, "write_atomic", watch)
    evaluate(trained_copy, settings=QUICK)
    assert len(seen) > 5
    assert set(seen).isdisjoint(blocks)


def test_other_settings_do_not_go_on(trained_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(trained_copy, settings=QUICK)
    with pytest.raises(InputError, match="another setting 'limit'"):
        evaluate(trained_copy, settings=QUICK, limit=9)
    config = trained_copy.model / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(InputError, match="with another model"):
        evaluate(trained_copy, settings=QUICK)
    outcome = evaluate(trained_copy, settings=QUICK, limit=9, restart=True)
    assert {task["n"] for task in outcome.results["tasks"].values()} == {9}


def test_a_failure_before_the_first_block_leaves_nothing(
    trained_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MultitaskError("cannot score")

    monkeypatch.setattr("multitask.scoring.scorer.Scorer.score", fail)
    with pytest.raises(MultitaskError, match="cannot score"):
        evaluate(trained_copy, settings=QUICK)
    assert not trained_copy.evaluations.exists()


@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(1, 9))
@settings(deadline=None)
def test_every_block_is_done_once_and_ranks_have_alike_to_do(costs: list[int], size: int) -> None:
    found = shares(costs, size)
    assert sorted(i for one in found for i in one) == list(range(len(costs)))
    loads = [sum(costs[i] for i in one) for one in found]
    assert max(loads) - min(loads) <= max(costs, default=0)


def test_the_key_of_a_model_follows_what_is_loaded(trained_copy: Run) -> None:
    name = str(trained_copy.model)
    key = model_key(name)
    (trained_copy.model / "calibration.json").write_text("{}")
    (trained_copy.model / "checkpoint-1").mkdir()
    assert model_key(name) == key
    weights = trained_copy.model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert model_key(name) != key
