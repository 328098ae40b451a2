"""What numbers were made with."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from multitask import environment as module
from multitask.environment import environment


def test_versions_are_those_that_are_installed() -> None:
    found = environment()["versions"]
    assert found["numpy"] == version("numpy")
    assert "python" in found


def test_the_commit_is_that_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "multitask").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "multitask/environment.py"))
    module.commit.cache_clear()
    clean = module.commit()
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "pyproject.toml").write_text("changed")
    module.commit.cache_clear()
    assert module.commit() == f"{clean}+changes"
    module.commit.cache_clear()


def _git(folder: Path, *arguments: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *author, *arguments], check=True)


def test_a_folder_that_is_no_checkout_of_ours_says_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package inside somebody's own repository must not record that repository's commit."""
    _git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("")
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "theirs")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "lib/multitask/environment.py"))
    monkeypatch.setattr(module, "distribution", _nothing)
    module.commit.cache_clear()
    assert module.commit() is None
    module.commit.cache_clear()


def _nothing(name: str) -> None:
    raise module.PackageNotFoundError(name)
