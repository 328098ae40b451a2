"""One node: restarts, gives up, stops when asked."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from multitask.checkpoints import newest_complete
from multitask.run import Run
from multitask.training import process
from multitask.training import supervisor as module
from multitask.training.attempts import ATTEMPT, NODE, Attempt, Attempts, announce_plugin
from multitask.training.process import processes_with
from multitask.training.progress import EventFollower, Watchdog
from tests.training.conftest import Start, attempts_of, finish, plan


def _newest(run: Run) -> int:
    newest = newest_complete(run.model)
    return 0 if newest is None else newest.step


def _await(what: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_training_that_does_not_fail_is_one_attempt(run: Run, start: Start) -> None:
    assert finish(start()) == (0, "")
    assert attempts_of(run) == [{"number": 1, "resume": None, "step": 0}]


def test_after_a_kill_it_goes_on_from_the_newest_complete_checkpoint(
    run: Run, start: Start
) -> None:
    plan(run, attempt1={0: (8, "kill")}, attempt2={0: (11, "kill")})
    code, output = finish(start())
    assert code == 0, output
    assert [attempt["step"] for attempt in attempts_of(run)] == [0, 6, 9]
    assert "attempt failed at step 8: killed by SIGKILL; restarting" in output
    assert _newest(run) == 12


def test_the_same_failure_at_the_same_step_is_a_bug(run: Run, start: Start) -> None:
    """The messages differ in an address only."""
    plan(run, **{f"attempt{n}": {0: (8, "error")} for n in (1, 2, 3)})
    code, output = finish(start())
    assert code == 1
    assert len(attempts_of(run)) == 2
    assert "a bug, not a fault" in output
    assert "RuntimeError: bad tensor" in output
    assert 'raise RuntimeError(f"bad tensor' in output  # the traceback
    assert _newest(run) == 6


def test_different_failures_are_tried_again_up_to_the_limit(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (1, "error")}, attempt2={0: (1, "exit")})
    code, output = finish(start(max_restarts=1))
    assert code == 1
    assert len(attempts_of(run)) == 2
    assert "2 failures in a row without a new complete checkpoint" in output


def test_progress_between_failures_starts_the_count_anew(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (4, "kill")}, attempt2={0: (7, "kill")}, attempt3={0: (10, "kill")})
    code, output = finish(start(max_restarts=1))
    assert code == 0, output
    assert len(attempts_of(run)) == 4


def test_an_error_before_the_first_step_is_not_tried_again(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (0, "error")})
    code, output = finish(start())
    assert code == 1
    assert len(attempts_of(run)) == 1
    assert "before its first step" in output


def test_a_full_disk_is_said_and_not_tried_again(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (8, "disk")})
    code, output = finish(start())
    assert code == 1
    assert len(attempts_of(run)) == 1
    assert "the disk is full" in output
    assert "make room, then add --resume" in output
    assert _newest(run) == 6


def test_a_launch_without_the_plugin_ends_before_its_first_step(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (0, "no plugin")})
    code, output = finish(start())
    assert code == 1
    assert "without multitask's plugin" in output
    assert not run.trainer_events.exists()


def test_a_plugin_that_announces_itself_while_the_log_is_read_is_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Announcement and log come from another process, at any moment between two looks of ours."""
    log = tmp_path / "log"

    class Meanwhile(process.LogWatcher):
        def poll(self) -> None:
            announce_plugin(run)
            log.write_text("Starting trainer...\n")
            super().poll()

    for name, value in ((ATTEMPT, "1"), (NODE, "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    watcher = Meanwhile(log, (module._IMPORT_FAILED, module._ABOUT_TO_TRAIN))
    supervisor = module.Supervisor(run, lambda *_: [])
    follower = EventFollower(run.trainer_events, lambda _: None)
    dog = Watchdog(tmp_path / "progress", supervisor.options)
    watch = module._Watch(supervisor, Attempt(1, None, 0), follower, watcher, dog)
    assert watch._plugin_missing() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_then_stops_and_the_next_start_goes_on(
    run: Run, start: Start, number: signal.Signals
) -> None:
    plan(run, attempt1={0: (3, "until asked to stop")})
    first = start()
    _await(lambda: _newest(run) == 3)
    first.send_signal(number)
    code, output = finish(first)
    assert code == 130
    step = _newest(run)
    assert step == 4
    assert f"stopped at step {step}; checkpoint-{step} is saved" in output
    assert finish(start(resume=True)) == (0, f"going on from checkpoint-{step}\n")
    assert _newest(run) == 12


def test_a_second_signal_does_not_wait(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (4, "hang")})
    supervisor = start()
    _await((run.root / "sync" / "1-4-end-of-0").exists)  # just before it hangs
    supervisor.send_signal(signal.SIGINT)
    _await(lambda: Attempts(run).stop_asked(1))
    assert supervisor.poll() is None
    supervisor.send_signal(signal.SIGINT)
    code, output = finish(supervisor)
    assert code == 130
    assert "checkpoint-3 is saved" in output
    assert processes_with("MULTITASK_RUN", f"{run.root.resolve()}:0") == []


def test_a_run_is_trained_by_one_supervisor(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (4, "hang")})
    start()
    _await(lambda: _newest(run) == 3)
    code, output = finish(start(resume=True))
    assert code == 2
    assert "another `multitask train`" in output


def test_what_a_killed_supervisor_left_is_ended(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (4, "hang")})
    first = start()
    _await(lambda: _newest(run) == 3)
    name = f"{run.root.resolve()}:0"
    first.kill()
    first.wait()
    assert len(processes_with("MULTITASK_RUN", name)) == 1
    code, output = finish(start(resume=True))
    assert code == 0, output
    assert "ended 1 processes that a killed supervisor had left" in output
    assert attempts_of(run)[1]["resume"] == "checkpoint-3"


def test_a_trained_run_is_refused_without_resume(run: Run, start: Start) -> None:
    assert finish(start())[0] == 0
    code, output = finish(start())
    assert code == 2
    assert "trained before" in output
    assert len(attempts_of(run)) == 1


def test_a_changed_run_is_refused_and_the_change_named(run: Run, start: Start) -> None:
    assert finish(start())[0] == 0
    run.axolotl.write_text("learning_rate: 0.2\n")
    code, output = finish(start(resume=True))
    assert code == 2
    assert "learning_rate: 0.1 then, 0.2 now" in output
    assert finish(start(resume=True, accept_changes=True))[0] == 0


def test_torn_checkpoints_are_set_aside_before_a_restart(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (8, "kill")})
    torn = run.model / "checkpoint-9"
    torn.mkdir(parents=True)
    code, output = finish(start(resume=True))
    assert code == 0
    assert "torn checkpoint set aside as torn-checkpoint-9-" in output


def test_a_hang_ends_the_attempt_with_stacks_and_the_next_goes_on(run: Run, start: Start) -> None:
    plan(run, attempt1={0: (8, "hang")})
    code, output = finish(start(stall=4.0))
    assert code == 0, output
    assert [attempt["step"] for attempt in attempts_of(run)] == [0, 6]
    assert "s after step 8: ending the attempt; stacks of 1 processes" in output
    log = (run.logs / "train-attempt-1.log").read_text()
    assert "most recent call first" in log
    assert "fake_training.py" in log
    assert "in fail" in log  # where it hangs
    assert _newest(run) == 12


def test_a_process_that_cannot_be_killed_is_named_and_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that waits inside a GPU's driver: signals wait until it comes back."""
    name = f"stuck-{time.time_ns()}"
    sleeper = subprocess.Popen(["sleep", "600"], env={"MULTITASK_TEST": name})
    try:
        with monkeypatch.context() as patch:
            patch.setattr(process, "_signal", lambda *_: None)
            found, stuck = process.end_processes(
                "MULTITASK_TEST", name, patience=0.1, kill_patience=0.3
            )
        assert found == [sleeper.pid]
        assert [(one.pid, one.command) for one in stuck] == [(sleeper.pid, "sleep 600")]
        assert stuck[0].state in ("R", "S", "D")  # by how busy the machine is
        assert f"process {sleeper.pid} (sleep 600) cannot be killed" in str(stuck[0])
    finally:
        assert process.end_processes("MULTITASK_TEST", name, patience=5) == ([sleeper.pid], [])
        sleeper.wait()


@pytest.mark.parametrize("chosen", [True, False])
def test_a_lock_that_a_killed_compilation_left_goes_and_one_that_is_held_stays(
    tmp_path: Path, chosen: bool
) -> None:
    """torch's own lock, which every later start waits for; it is held open while one compiles."""
    file_baton = pytest.importorskip("torch.utils.file_baton")
    root = tmp_path if chosen else tmp_path / "torch_extensions" / "py311_cpu"
    environment = {"TORCH_EXTENSIONS_DIR" if chosen else "XDG_CACHE_HOME": str(tmp_path)}
    batons = {}
    for name in ("left", "held", "young"):
        (root / name).mkdir(parents=True)
        batons[name] = file_baton.FileBaton(str(root / name / "lock"))
        assert batons[name].try_acquire()
        if name != "held":
            os.close(batons[name].fd)  # as the end of its process does
        if name != "young":
            os.utime(root / name / "lock", (time.time() - 601,) * 2)
    assert process.remove_stale_locks(environment) == [root / "left" / "lock"]
    batons["left"].wait()  # without the removal, for ever
    assert (root / "held" / "lock").exists()
    assert (root / "young" / "lock").exists()
    os.close(batons["held"].fd)
    assert process.remove_stale_locks(environment) == [root / "held" / "lock"]


def test_a_supervisor_says_which_lock_it_removed(run: Run, start: Start, tmp_path: Path) -> None:
    lock = tmp_path / "extensions" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - 601,) * 2)
    code, output = finish(start())
    assert code == 0
    assert output.startswith(f"removed {lock}, which a killed compilation had left")
    assert not lock.exists()
