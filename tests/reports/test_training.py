"""What a report says of a training: curves by task, tokens, restarts, and torn logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multitask.errors import InputError
from multitask.reports.training import read_training
from multitask.run import Run
from multitask.training.attempts import Attempts, Ruling


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A training that was killed in step 3 and went on from step 2."""
    run = Run(tmp_path)
    run.logs.mkdir()
    events = [
        {"event": "start", "time": 0, "step": 0},
        {"event": "log", "time": 30, "step": 1, "values": {"loss": 4.0}},
        {"event": "save", "time": 60, "step": 2},
        {"event": "log", "time": 90, "step": 3, "values": {"loss": 9.0}},
        {"event": "start", "time": 600, "step": 2},
        {"event": "log", "time": 630, "step": 3, "values": {"loss": 2.0}},
        {"event": "end", "time": 660, "step": 4},
    ]
    _write(run.trainer_events, [event | {"max_steps": 4} for event in events])
    _write(run.balance_log, [{"step": step, "train/a/tokens": 10.0} for step in (1, 2, 3, 3, 4)])
    _write(
        run.evaluation_log,
        [
            {"step": 0, "eval/a/loss": 4, "eval/macro/loss": 4, "eval/a/rows": 5, "eval/loss": 4},
            {"step": 2, "eval/a/loss": 2, "eval/macro/loss": 2, "eval/a/rows": 5, "eval/loss": 2},
        ],
    )
    return run


def _write(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_step_that_was_repeated_counts_once(run: Run) -> None:
    found = read_training(run)
    assert found["loss"] == [(1, 4.0), (3, 2.0)]
    assert found["tokens"] == {"a": 40}


def test_curves_are_by_task_without_means(run: Run) -> None:
    assert read_training(run)["tasks"] == {"loss": {"a": [(0, 4.0), (2, 2.0)]}}


def test_restarts_and_checkpoints_are_on_the_time_line(run: Run) -> None:
    found = read_training(run)
    assert [(m["minutes"], m["kind"], m["step"]) for m in found["moments"]] == [
        (0, "start", 0), (1, "checkpoint", 2), (10, "restart", 2), (11, "end", 4),
    ]  # fmt: skip
    assert found["facts"]["restarts"] == "1"


def test_attempts_say_how_they_ended(run: Run) -> None:
    (run.root / "attempts").mkdir()
    attempts = Attempts(run)
    attempts.begin(None, 0)
    attempts.rule(1, Ruling("restart", "node 1 failed"))
    attempts.begin(Path("checkpoint-2"), 2)
    assert read_training(run)["attempts"] == [
        "attempt 1, from the base model: restart node 1 failed",
        "attempt 2, from checkpoint-2: no end recorded",
    ]


def test_a_last_line_that_a_crash_cut_is_left_out(run: Run) -> None:
    with run.trainer_events.open("a") as file:
        file.write('{"event": "lo')
    assert read_training(run)["facts"]["steps"] == "4 of 4"


def test_a_torn_line_within_is_no_such_case(run: Run) -> None:
    text = run.trainer_events.read_text()
    run.trainer_events.write_text('{"event": "lo\n' + text)
    with pytest.raises(InputError, match=r"trainer\.jsonl:1"):
        read_training(run)


def test_a_run_that_was_never_trained_has_nothing_to_tell(tmp_path: Path) -> None:
    found = read_training(Run(tmp_path))
    assert not any(found.values())
