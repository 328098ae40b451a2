"""Faults in the user's words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from multitask.errors import InputError
from multitask.rehearsal.checks import steps_lost
from multitask.rehearsal.faults import (
    VARIABLE,
    Fault,
    as_environment,
    grant,
    parse_fault,
    wanted,
)
from multitask.run import Run


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        ("kill", "rank:5@step:3", Fault("kill", "rank", 5, 3)),
        ("kill", "node:1@save", Fault("kill", "node", 1, None)),
        ("partition", "node:2@step:4", Fault("partition", "node", 2, 4)),
        ("disk-full", "node:0@save", Fault("disk-full", "node", 0, None)),
        ("stall", "rank:7@step:2", Fault("stall", "rank", 7, 2)),
    ],
)
def test_the_issue_s_examples_are_read(kind: str, text: str, fault: Fault) -> None:
    assert parse_fault(kind, text, nodes=3, procs=4) == fault  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("kill", "rank:12@step:3", "there is no rank 12"),
        ("kill", "node:3@save", "there is no node 3"),
        ("kill", "everything", "write rank:N@step:S"),
        ("stall", "node:1@step:3", "write rank:N@step:S"),
        ("disk-full", "node:1@step:3", "node:N@save"),
        ("partition", "rank:1@step:3", "write node:N@step:S"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_fault(kind, text, nodes=3, procs=4)  # type: ignore[arg-type]


def test_ranks_are_told_by_their_environment(tmp_path: Path) -> None:
    fault = Fault("kill", "rank", 5, 3)
    told = json.loads(as_environment([fault], tmp_path)[VARIABLE])
    assert [Fault(**record) for record in told] == [fault]


def test_a_fault_of_a_machine_is_done_once(tmp_path: Path) -> None:
    fault = Fault("kill", "node", 1, 3)
    assert wanted([fault], tmp_path) == []
    (tmp_path / f"{fault.name}.wanted").touch()
    assert wanted([fault], tmp_path) == [fault]
    grant(fault, tmp_path)
    assert wanted([fault], tmp_path) == []


_ENDS_A_STEP = """
import sys
from types import SimpleNamespace
from transformers import TrainerState
from transformers.trainer import DEFAULT_CALLBACKS
from multitask.rehearsal.faults import install

install()
state = TrainerState(global_step=5, max_steps=6, is_world_process_zero=False)
DEFAULT_CALLBACKS[-1]().on_step_end(SimpleNamespace(output_dir=sys.argv[1]), state, None)
"""


def test_a_killed_rank_has_said_its_step_though_the_first_rank_could_not(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    run = Run(tmp_path / "run")
    run.logs.mkdir(parents=True)
    told = [{"event": "start", "step": 0}, {"event": "log", "step": 4, "values": {"loss": 1}}]
    run.trainer_events.write_text("".join(json.dumps(event) + "\n" for event in told))
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0"}
    asked = as_environment([Fault("kill", "rank", 1, 5)], tmp_path / "faults")
    done = subprocess.run(
        [sys.executable, "-c", _ENDS_A_STEP, str(run.model)], env=dict(os.environ) | ranks | asked
    )
    assert done.returncode == -signal.SIGKILL
    with run.trainer_events.open("a") as file:
        file.write('{"event": "start", "step": 4}\n')
    assert steps_lost(run) == [1]
