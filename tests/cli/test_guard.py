"""Whatever a command raises, a user sees one message, and an exit code says whose fault it is."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from multitask.cli import guard
from multitask.errors import InputError, MultitaskError
from multitask.run import Run


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), MultitaskError, "/x: no space"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), MultitaskError, "read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), InputError, "/x: permission"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), InputError, "a/b"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 999), InputError, "shorter"),
        (MemoryError(), MultitaskError, "out of memory"),
        (ModuleNotFoundError("no", name="torch"), InputError, r"multitask\[train\]"),
        (ModuleNotFoundError("no", name="matplotlib.pyplot"), InputError, r"multitask\[report\]"),
        (KeyError("x"), MultitaskError, "internal error: KeyError.*\n.*MULTITASK_DEBUG"),
    ],
)
def test_every_exception_becomes_a_message(
    error: Exception, kind: type[MultitaskError], message: str
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(MultitaskError, match=message) as raised:
        guard.guarded(command)()
    assert type(raised.value) is kind


def run(*arguments: object, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{code}\nfrom multitask.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_without_torch_evaluate_names_the_extra(
    write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    made = run("prepare", write_spec(), "--out", tmp_path / "run")
    assert made.returncode == 0, made.stderr
    model = tmp_path / "run" / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    # As Python raises it where a module is not installed.
    done = run("evaluate", tmp_path / "run", code="import sys; sys.modules['torch'] = None")
    assert done.returncode == 2
    assert "pip install 'multitask[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_place_of_a_fault_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    assert "Traceback" in run("report", tmp_path, MULTITASK_DEBUG="1").stderr
    assert "Traceback" not in run("report", tmp_path).stderr


def test_a_file_that_was_changed_is_named_where_it_leads_to_an_error(
    write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run("prepare", write_spec(), "--out", out).returncode == 0
    manifest = Run(out).manifest
    content = json.loads(manifest.read_text())
    del content["tasks"]["banking77"]["labels"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"manifest\.json: is not as multitask wrote it"):
        raise guard.explain(KeyError("labels"), [out])


def test_sha256sum_agrees(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    assert run("prepare", write_spec(), "--out", tmp_path / "run").returncode == 0
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path / "run", capture_output=True
    )
    assert done.returncode == 0


def test_files_that_may_hold_logins_are_the_users_alone(
    write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    assert run("prepare", write_spec(), "--out", tmp_path / "run").returncode == 0
    assert (tmp_path / "run" / "spec.yaml").stat().st_mode & 0o777 == 0o600


def test_sigterm_leaves_no_half_run(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    # The command waits at its last step, so that the signal finds the folder half written.
    code = "import multitask.data.prepare as w, time; w.plan_markdown = lambda _: time.sleep(600)"
    program = f"{code}\nfrom multitask.cli import main\nmain()"
    arguments = ["prepare", str(write_spec()), "--out", str(tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE)
    while not list(tmp_path.glob(".run.*.partial/data/manifest.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]
