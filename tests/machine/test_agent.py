"""A node's part: what orders do to it, over commands that end as the test says."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from multitask.machine.agent import Agent
from multitask.machine.commands import Commands
from multitask.machine.exchange import Exchange
from multitask.machine.logs import Log
from multitask.machine.settings import Place

# Writes its process, then ends with the code that a file holds once it is there.
_SCRIPT = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with open(folder / "started", "a") as file:
    file.write(f"{os.getpid()}\\n")
while not (folder / "code").exists():
    time.sleep(0.02)
code = int((folder / "code").read_text())
(folder / "code").unlink()
print(f"error: ended with {code}")
sys.exit(code)
"""


class Scripted(Commands):
    def train(self, place: Place) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", _SCRIPT, str(self.root.parent)], {}


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    log = Log(tmp_path / "log.txt", {})
    root = tmp_path / "run"
    return Agent(Exchange(root), Place(1, 2), Scripted(root), log, dict(os.environ))


def starts(tmp_path: Path) -> list[int]:
    path = tmp_path / "started"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def tick_until(agent: Agent, condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        agent.tick()
        time.sleep(0.02)


def test_without_an_order_nothing_is_started(agent: Agent, tmp_path: Path) -> None:
    agent.tick()
    assert agent.training is None
    assert agent.exchange.greetings(2).keys() == {1}


def test_a_check_is_answered_once(agent: Agent) -> None:
    order = agent.exchange.give("check")
    tick_until(agent, lambda: agent.exchange.answer_of(1, order.number))
    facts = agent.exchange.answer_of(1, order.number)
    assert facts is not None
    assert set(facts["seen"]) == {"1"}


def test_an_order_to_train_starts_one_training_and_reports_its_end(
    agent: Agent, tmp_path: Path
) -> None:
    order = agent.exchange.give("train")
    tick_until(agent, lambda: starts(tmp_path))
    (tmp_path / "code").write_text("3")
    tick_until(agent, lambda: agent.exchange.end_of(1, order.number) is not None)
    for _ in range(5):
        agent.tick()
    assert agent.exchange.end_of(1, order.number) == 3
    assert agent.error == "ended with 3"
    assert len(starts(tmp_path)) == 1


def test_a_later_order_trains_again(agent: Agent, tmp_path: Path) -> None:
    for number in (1, 2):
        order = agent.exchange.give("train")
        tick_until(agent, lambda: len(starts(tmp_path)) == number)  # noqa: B023
        (tmp_path / "code").write_text(str(number))
        tick_until(agent, lambda: agent.exchange.end_of(1, order.number) is not None)  # noqa: B023
        assert agent.exchange.end_of(1, order.number) == number


def test_a_training_goes_on_through_a_new_check(agent: Agent, tmp_path: Path) -> None:
    agent.exchange.give("train")
    tick_until(agent, lambda: starts(tmp_path))
    check = agent.exchange.give("check")
    tick_until(agent, lambda: agent.exchange.answer_of(1, check.number))
    order = agent.exchange.give("train")
    for _ in range(5):
        agent.tick()
    assert len(starts(tmp_path)) == 1
    (tmp_path / "code").write_text("0")
    tick_until(agent, lambda: agent.exchange.end_of(1, order.number) is not None)


def test_a_supervisor_that_is_killed_is_started_again(agent: Agent, tmp_path: Path) -> None:
    agent.exchange.give("train")
    tick_until(agent, lambda: starts(tmp_path))
    os.kill(starts(tmp_path)[0], signal.SIGKILL)
    tick_until(agent, lambda: len(starts(tmp_path)) == 2)
    assert agent.training is not None
    agent.training.kill()


def test_the_end_of_the_job_ends_the_training(agent: Agent, tmp_path: Path) -> None:
    agent.exchange.give("train")
    tick_until(agent, lambda: starts(tmp_path))
    agent.exchange.give("end")
    tick_until(agent, lambda: agent.training is None)
    assert len(starts(tmp_path)) == 1  # and it is not started again
