"""``multitask checkpoints``."""

from __future__ import annotations

from typer.testing import CliRunner

from multitask.checkpoints import MARKER, list_checkpoints, set_aside
from multitask.cli import app
from multitask.run import Run
from tests.checkpoints.conftest import fail_to_read, save, write_config, write_plain


def _table(run: Run, *options: str) -> str:
    result = CliRunner().invoke(
        app, ["checkpoints", str(run.root), *options], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_it_names_the_torn_and_why_and_what_is_next(run: Run) -> None:
    save(run, 3)
    save(run, 6)
    write_plain(run.model / "checkpoint-9")
    (run.model / "checkpoint-9" / "scheduler.pt").unlink()
    lines = _table(run).splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["3", "complete"], ["6", "complete"], ["9", "torn"],
    ]  # fmt: skip
    assert "scheduler.pt is missing" in lines[3]
    assert "next to resume from" in lines[2]
    assert lines[4].startswith("next to resume from: checkpoint-6")


def test_it_names_what_cannot_be_read_and_what_was_set_aside(run: Run) -> None:
    save(run, 3)
    fail_to_read(save(run, 6) / MARKER)
    set_aside(list_checkpoints(run.model)[0])
    save(run, 3)
    output = _table(run)
    assert "`--resume` refuses while checkpoint-6 cannot be read" in output
    assert "set aside: torn-checkpoint-3-" in output
    assert "remove it when you do not need it" in output


def test_it_tells_of_changes_before_a_resume_refuses_them(run: Run) -> None:
    save(run, 3)
    write_config(run, learning_rate=0.3)
    assert "changed since: learning_rate: 0.1 then, 0.3 now" in _table(run)


def test_verifying_reads_what_sizes_do_not_tell(run: Run) -> None:
    path = save(run, 3) / "optimizer.pt"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0]]) + b"x" + content[2:])
    assert "torn" not in _table(run)
    assert "other content" in _table(run, "--verify")


def test_a_run_without_checkpoints_says_so(run: Run) -> None:
    assert "no complete checkpoint" in _table(run)
