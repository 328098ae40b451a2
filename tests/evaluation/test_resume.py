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

from multitask.errors import InputError, MultitaskError
from multitask.evaluation import work
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.model_key import model_key
from multitask.evaluation.partial import Block, Partial
from multitask.evaluation.settings import Settings
from multitask.run import Run


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
    write = Partial.write
    count = 0

    def interrupted(self: Partial, part: int, number: int, block: Block) -> None:
        nonlocal count
        if count == blocks:
            raise KeyboardInterrupt
        count += 1
        write(self, part, number, block)

    monkeypatch.setattr(work.Partial, "write", interrupted)


def test_what_is_killed_goes_on_and_ends_the_same(trained_copy: Run) -> None:
    """A real SIGKILL, between or within blocks; then a torn block, as a full disk leaves it."""
    run = trained_copy
    command = [sys.executable, "-m", "multitask", "evaluate", str(run.root), "--name", "killed"]
    partial = run.evaluations / "killed" / "partial"
    with subprocess.Popen(
        [*command, *ARGUMENTS, "--permutations"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        deadline = time.monotonic() + 60
        while len(list(partial.glob("[0-9]*.json"))) < 2 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (run.evaluations / "killed" / "results.json").exists()
    kept = sorted(partial.glob("[0-9]*.json"))
    assert len(kept) >= 2
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    said: list[str] = []
    settings = replace(QUICK, permutations=True, block=Settings().block)
    evaluate(run, name="killed", settings=settings, report=said.append)
    assert f"killed: going on where it stopped, with {len(kept)} blocks of rows done" in said
    assert not partial.exists()
    evaluate(run, name="whole", settings=settings)
    one, other = _outcome(run, "killed"), _outcome(run, "whole")
    assert one[0] == other[0]
    assert one[1].equals(other[1])


def test_two_processes_give_the_same_numbers_as_one(trained_copy: Run) -> None:
    done = _multitask("evaluate", trained_copy.root, "--name", "two", "--processes", 2, *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    evaluate(trained_copy, name="one", settings=replace(QUICK, block=Settings().block))
    one, two = _outcome(trained_copy, "one"), _outcome(trained_copy, "two")
    assert one[0] == two[0]
    assert one[1].equals(two[1])
    results = json.loads((trained_copy.evaluations / "two" / "results.json").read_text())
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
        for path in (trained_copy.evaluations / "trained" / "partial").glob("[0-9]*.json")
    }
    assert len(blocks) == 5
    seen: list[str] = []
    write = Partial.write

    def watch(self: Partial, part: int, number: int, block: Block) -> None:
        seen.append(f"{part:03d}-{number:06d}.json")
        write(self, part, number, block)

    monkeypatch.setattr(Partial, "write", watch)
    evaluate(trained_copy, settings=QUICK)
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

    monkeypatch.setattr("multitask.evaluation.parts.score", fail)
    with pytest.raises(MultitaskError, match="cannot score"):
        evaluate(trained_copy, settings=QUICK)
    assert not trained_copy.evaluations.exists()


def test_a_block_of_other_rows_is_not_read(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "evaluation" / "x")
    partial.open({"model": "a"})
    block = Block((3, 1), [{"x": 1}, {"x": None}], 0.5, 0, "s", ("note",))
    partial.write(2, 0, block)
    assert partial.read(2, 0, (3, 1)) == block
    assert partial.read(2, 0, (1, 3)) is None
    assert partial.read(2, 1, (3, 1)) is None
    assert partial.blocks() == 1
    partial.remove()
    assert list(tmp_path.iterdir()) == []


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
