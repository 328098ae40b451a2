"""Nothing waits longer than it was told to."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from multitask.doctor.bounded import NoAnswerError, Pending, run_program


def test_work_that_hangs_is_left_behind() -> None:
    never = threading.Event()
    with pytest.raises(NoAnswerError, match=r"no answer in 0\.05 s"):
        Pending(never.wait, 0.05).get()
    never.set()


def test_what_the_work_raises_is_raised_where_it_is_asked_for() -> None:
    with pytest.raises(ZeroDivisionError):
        Pending(lambda: 1 // 0, 5).get()


def test_a_result_that_came_in_time_is_there_later_too() -> None:
    pending = Pending(lambda: "done", 0.2)
    time.sleep(0.3)
    assert pending.get() == "done"


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(NoAnswerError):
        run_program(["sh", "-c", f"sleep 600 & echo $! > {pid}; wait"], 0.5)
    status = Path(f"/proc/{pid.read_text().strip()}/stat")
    for _ in range(100):
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child lives on")


def test_the_last_line_of_a_failure_is_kept() -> None:
    done = run_program([sys.executable, "-c", "raise SystemExit('no driver')"], 30)
    assert (done.code, done.last_words) == (1, "no driver")
