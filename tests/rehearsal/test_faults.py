"""Faults in the user's words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multitask.errors import InputError
from multitask.rehearsal.faults import (
    VARIABLE,
    Fault,
    as_environment,
    grant,
    parse_fault,
    wanted,
)


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
