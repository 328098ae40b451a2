"""Three nodes on one machine: three real supervisors that share nothing but the run directory."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from multitask.checkpoints import newest_complete
from multitask.run import Run
from multitask.training.process import end_processes, processes_with
from tests.training.conftest import Start, attempts_of, finish, plan

NODES = 3


def _finish_all(processes: list[Any]) -> tuple[list[int], list[str]]:
    results = [finish(process) for process in processes]
    return [code for code, _ in results], [output for _, output in results]


def _await_step(run: Run, step: int) -> None:
    deadline = time.monotonic() + 120
    while (newest := newest_complete(run.model)) is None or newest.step < step:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _reports(run: Run, number: int) -> list[str]:
    folder = run.root / "attempts"
    return [
        json.loads((folder / f"{number}.node-{node}.json").read_text())["state"]
        for node in range(NODES)
    ]


def test_all_nodes_train_one_attempt(run: Run, start: Start) -> None:
    codes, _ = _finish_all([start(node, NODES) for node in (2, 0, 1)])
    assert codes == [0, 0, 0]
    assert len(attempts_of(run)) == 1
    assert _reports(run, 1) == ["done"] * 3


@pytest.mark.parametrize("node", [0, 2])
def test_when_one_node_fails_all_go_on_from_the_same_checkpoint(
    run: Run, start: Start, node: int
) -> None:
    """The others hang in a barrier, as in a collective; nobody but its supervisor tells them."""
    plan(run, attempt1={node: (8, "kill")})
    codes, outputs = _finish_all([start(n, NODES) for n in range(NODES)])
    assert codes == [0, 0, 0], outputs
    assert attempts_of(run)[1] == {"number": 2, "resume": "checkpoint-6", "step": 6}
    states = _reports(run, 1)
    assert states.pop(node) == "failed"
    assert states == ["killed", "killed"]


def test_the_cause_is_named_on_every_node_when_all_give_up(run: Run, start: Start) -> None:
    plan(run, attempt1={1: (8, "error")}, attempt2={1: (8, "error")})
    codes, outputs = _finish_all([start(n, NODES) for n in range(NODES)])
    assert codes == [1, 1, 1]
    for output in outputs:
        assert "a bug, not a fault" in output
        assert "RuntimeError: bad tensor" in output


@pytest.mark.parametrize("node", [0, 1])
def test_a_signal_to_one_node_stops_all_at_the_same_step(run: Run, start: Start, node: int) -> None:
    plan(run, attempt1={0: (3, "until asked to stop")})
    processes = [start(n, NODES) for n in range(NODES)]
    _await_step(run, 3)
    processes[node].send_signal(signal.SIGTERM)
    codes, outputs = _finish_all(processes)
    assert codes == [130] * 3, outputs
    newest = newest_complete(run.model)
    assert newest is not None
    assert all(f"checkpoint-{newest.step} is saved" in output for output in outputs)
    assert _reports(run, 1) == ["stopped"] * 3


def test_a_signal_is_heard_while_the_first_node_waits_for_the_others(
    run: Run, start: Start
) -> None:
    """Node 0 has ended its own launch; the last one hangs at its end, as in a deadlock."""
    plan(run, attempt1={2: (12, "hang")})
    processes = [start(n, NODES, stop=0.5) for n in range(NODES)]
    report = run.root / "attempts" / "1.node-0.json"
    deadline = time.monotonic() + 120
    while not report.is_file() or json.loads(report.read_text())["state"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    processes[0].send_signal(signal.SIGTERM)
    codes, outputs = _finish_all(processes)
    assert codes == [130] * 3, outputs
    assert _reports(run, 1) == ["done", "done", "stopped"]


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_dies_and_comes_back_joins_the_next_attempt(
    run: Run, start: Start, node: int
) -> None:
    """Its supervisor and its processes are gone at once, as when a machine is."""
    plan(run, attempt1={node: (4, "hang")})
    processes = [start(n, NODES) for n in range(NODES)]
    _await_step(run, 3)
    processes[node].kill()
    processes[node].wait()
    end_processes("MULTITASK_RUN", f"{run.root.resolve()}:{node}", patience=0)
    processes[node] = start(node, NODES, resume=True)
    codes, outputs = _finish_all(processes)
    assert codes == [0, 0, 0], outputs
    assert len(attempts_of(run)) >= 2
    assert attempts_of(run)[-1]["resume"] is not None


def test_a_dead_node_is_noticed_and_waited_for(run: Run, start: Start) -> None:
    plan(run, attempt1={2: (4, "hang")})
    processes = [start(n, NODES, dead=4.0, patience=3.0) for n in range(NODES)]
    _await_step(run, 3)
    processes[2].kill()
    end_processes("MULTITASK_RUN", f"{run.root.resolve()}:2", patience=0)
    codes, outputs = _finish_all(processes[:2])
    assert codes == [1, 1]
    assert "node 2 no longer answers" in outputs[0]
    assert "waiting for node 2" in outputs[0]
    for output in outputs:
        assert "node 2 did not come within 3 s" in output
    assert processes_with("MULTITASK_RUN", f"{run.root.resolve()}:0") == []


def test_nodes_give_up_when_the_first_does_not_come(run: Run, start: Start) -> None:
    code, output = finish(start(1, NODES, patience=1.0))
    assert code == 1
    assert "waiting for node 0" in output
    assert "node 0 gave no sign of life for 1 s" in output


def test_a_change_since_the_checkpoint_ends_all_nodes_with_its_name(run: Run, start: Start) -> None:
    assert _finish_all([start(n, NODES) for n in range(NODES)])[0] == [0, 0, 0]
    run.axolotl.write_text("learning_rate: 0.2\n")
    codes, outputs = _finish_all([start(n, NODES, resume=True, patience=3.0) for n in range(NODES)])
    assert codes[0] == 2
    assert "learning_rate" in outputs[0]
    assert all(codes)


def test_a_hang_on_one_node_ends_the_attempt_on_all_with_their_stacks(
    run: Run, start: Start
) -> None:
    plan(run, attempt1={1: (8, "hang")})
    processes = [start(n, NODES, stall=4.0) for n in range(NODES)]
    for process in processes:
        code, output = finish(process)
        assert code == 0, output
        assert "stacks of 1 processes" in output
    assert [attempt["step"] for attempt in attempts_of(run)] == [0, 6]
    logs = [run.logs / f"train-attempt-1-node-{node}.log" for node in range(NODES)]
    assert ["in fail" in log.read_text() for log in logs] == [False, True, False]
    assert all("in meet" in log.read_text() for log in (logs[0], logs[2]))
