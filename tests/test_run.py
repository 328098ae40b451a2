"""Run directories: made whole or not at all, never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.errors import InputError
from multitask.run import Run, staged, write_atomic


def _write(out: Path, **files: str) -> None:
    with staged(out) as stage:
        (stage / "spec.yaml").write_text("spec")
        for name, content in files.items():
            (stage / name).write_text(content)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with staged(tmp_path / "run") as stage:
            (stage / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_the_directory_appears_with_its_files(tmp_path: Path) -> None:
    _write(tmp_path / "deep" / "run", a="1")
    assert (tmp_path / "deep" / "run" / "a").read_text() == "1"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["run"]


def test_the_same_content_again_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _write(out, a="1")
    (out / "checkpoint").write_text("precious")
    _write(out, a="1")
    assert (out / "checkpoint").read_text() == "precious"


def test_missing_files_are_added(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _write(out, a="1")
    _write(out, a="1", b="2")
    assert (out / "b").read_text() == "2"


def test_other_content_is_refused_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    _write(out, b="1")
    with pytest.raises(InputError, match="b would change"):
        _write(out, a="new", b="2")
    assert (out / "b").read_text() == "1"
    assert not (out / "a").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("x")
    with pytest.raises(InputError, match="no run"):
        _write(tmp_path / "photos")


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    _write(tmp_path / "run", a="1")
    assert (tmp_path / "run" / "a").exists()


def test_opening_something_else_says_how_to_make_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multitask build-config"):
        Run.open(tmp_path)


def test_write_atomic_replaces_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
