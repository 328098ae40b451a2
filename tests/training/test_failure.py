"""What is read from a launch's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.training.attempts import NodeReport
from multitask.training.failure import is_full_disk, is_repeated, last_traceback, read_failure

TRAINER = """\
loading
Traceback (most recent call last):
  File "train.py", line 1, in <module>
    main()
ValueError: the loss is nan
"""
LAUNCHER = """\
Traceback (most recent call last):
  File "launch.py", line 9, in simple_launcher
    raise subprocess.CalledProcessError(returncode=process.returncode, cmd=cmd)
subprocess.CalledProcessError: Command '['python']' {how}.
"""
TORCHRUN = """\
[default1]:Traceback (most recent call last):
[default1]:  File "train.py", line 2, in <module>
[default1]:RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer
============================================================
axolotl.cli.train FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-21_04:00:02
  rank      : 5 (local_rank: 1)
  exitcode  : 1 (pid: 12)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_04:00:01
  host      : node-1
  rank      : 4 (local_rank: 0)
  exitcode  : {code} (pid: 11)
  error_file: <N/A>
============================================================
"""


def _report(tmp_path: Path, text: str, rank_logs: Path | None = None) -> NodeReport:
    log = tmp_path / "train.log"
    log.write_text(text)
    return read_failure(log, rank_logs, 1, 7)


def test_the_trainers_traceback_is_told_from_the_launchers(tmp_path: Path) -> None:
    report = _report(tmp_path, TRAINER + LAUNCHER.format(how="returned non-zero exit status 1"))
    assert report.error == "ValueError: the loss is nan"
    assert report.details == TRAINER.removeprefix("loading\n").rstrip()
    assert (report.state, report.step, report.cause) == ("failed", 7, True)


def test_a_handled_error_before_a_kill_is_not_blamed(tmp_path: Path) -> None:
    text = TRAINER + "training goes on\n" + LAUNCHER.format(how="died with <Signals.SIGKILL: 9>")
    assert _report(tmp_path, text).error == "killed by SIGKILL"


def test_the_first_failing_rank_is_named_with_its_own_traceback(tmp_path: Path) -> None:
    """Rank 5's error stands in the log too, and is only a consequence."""
    own = tmp_path / "logs" / "none_x" / "attempt_0" / "0" / "stderr.log"
    own.parent.mkdir(parents=True)
    own.write_text(TRAINER)
    report = _report(tmp_path, TORCHRUN.format(code=1), tmp_path / "logs")
    assert report.error == "rank 4: ValueError: the loss is nan"
    assert report.where == str(own)
    assert report.cause
    killed = _report(tmp_path, TORCHRUN.format(code=-9), tmp_path / "logs")
    assert killed.error == "rank 4: killed by SIGKILL"


def test_a_lost_connection_is_no_cause(tmp_path: Path) -> None:
    text = TRAINER.replace("ValueError: the loss is nan", "RuntimeError: Connection closed by peer")
    assert not _report(tmp_path, text).cause


def test_without_a_traceback_the_last_lines_are_shown(tmp_path: Path) -> None:
    report = _report(tmp_path, "\n".join(f"line {i}" for i in range(100)))
    assert report.error == "line 99"
    assert report.details.splitlines()[0] == "line 80"
    assert _report(tmp_path, "").error == "exit code 1"


def test_a_long_traceback_is_shown_from_its_end() -> None:
    frames = "".join(f'  File "a.py", line {i}, in f\n' for i in range(100))
    found = last_traceback(f"Traceback (most recent call last):\n{frames}KeyError: 'x'\n")
    assert found is not None
    assert found.splitlines()[0].startswith("Traceback")
    assert found.endswith("line 99, in f\nKeyError: 'x'")
    assert len(found.splitlines()) < 25


@pytest.mark.parametrize(
    ("error", "step", "same"),
    [
        ("RuntimeError: bad tensor at 0x7fab12", 7, True),
        ("RuntimeError: bad tensor at 0x7fab12", 8, True),
        ("RuntimeError: bad tensor at 0x7fab12", 9, False),
        ("RuntimeError: out of memory", 7, False),
    ],
)
def test_a_failure_is_the_same_by_step_and_words(error: str, step: int, same: bool) -> None:
    before = NodeReport("failed", 7, error="RuntimeError: bad tensor at 0x1234")
    assert is_repeated(before, NodeReport("failed", step, error=error)) is same


def test_a_full_disk_is_known_by_how_libraries_say_it() -> None:
    errors = [
        "OSError: [Errno 28] No space left on device",
        "OSError: [Errno 122] Disk quota exceeded",
    ]
    assert all(is_full_disk(NodeReport("failed", error=error)) for error in errors)
    assert not is_full_disk(NodeReport("failed", error="OSError: [Errno 5] Input/output error"))
