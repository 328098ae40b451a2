"""Complete, torn, newest, set aside, rotated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.checkpoints import (
    MARKER,
    fingerprint,
    list_checkpoints,
    newest_complete,
    read_marker,
    rotate,
    set_aside,
)
from multitask.checkpoints.layout import list_files
from multitask.errors import MultitaskError
from tests.checkpoints.conftest import fail_to_read, mark, write_plain, write_sharded

Make = Callable[..., Path]


def test_without_a_marker_it_is_torn(make: Make) -> None:
    folder = make(3, marked=False)
    (found,) = list_checkpoints(folder.parent)
    assert not found.complete
    assert found.problems == (f"no {MARKER}, so the save did not end",)


def test_the_newest_complete_one_is_by_step_not_by_name_or_time(make: Make) -> None:
    for step in (10, 9, 100):
        model = make(step).parent
    make(120, marked=False)
    os.utime(model / "checkpoint-9")
    assert [c.step for c in list_checkpoints(model)] == [9, 10, 100, 120]
    newest = newest_complete(model)
    assert newest is not None
    assert newest.step == 100


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "none") == []
    assert newest_complete(tmp_path) is None


def test_the_marker_comes_back_as_it_was_written(make: Make) -> None:
    folder = make(3)
    marker = read_marker(folder)
    assert marker is not None
    assert marker.step == 3
    sizes = list_files(folder)
    del sizes[MARKER]
    assert {name: record.size for name, record in marker.files.items()} == sizes


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}'])
def test_a_marker_that_is_torn_itself_counts_as_none(make: Make, content: str) -> None:
    folder = make(3)
    (folder / MARKER).write_text(content)
    assert read_marker(folder) is None
    assert newest_complete(folder.parent) is None


def test_a_marker_that_the_disk_does_not_give_makes_it_unreadable_not_torn(make: Make) -> None:
    make(3)
    folder = make(6)
    fail_to_read(folder / MARKER)
    with pytest.raises(OSError, match="Input/output error"):
        read_marker(folder)
    found = list_checkpoints(folder.parent)[1]
    assert (found.state, found.torn, found.complete) == ("unreadable", False, False)
    with pytest.raises(MultitaskError, match=r"checkpoint-6.*Input/output error"):
        newest_complete(folder.parent, contents=True)


def test_a_marker_of_another_version_makes_it_unreadable_not_torn(make: Make) -> None:
    folder = make(3)
    content = json.loads((folder / MARKER).read_text())
    (folder / MARKER).write_text(json.dumps(content | {"version": 99}))
    (found,) = list_checkpoints(folder.parent)
    assert (found.state, found.torn) == ("unreadable", False)
    assert "format 99" in found.problems[0]


def test_a_folder_that_cannot_be_listed_makes_it_unreadable_not_torn(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Path.rglob`` passes over a folder that may not be read; to root every folder is open."""
    folder = write_sharded(make(3).parent / "checkpoint-6")
    mark(folder)
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "optimizer_0":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list_checkpoints(folder.parent)[1]
    assert (found.state, found.problems) == (
        "unreadable", ("optimizer_0 cannot be read: Permission denied",),
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_changed_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = mark(write_plain(tmp_path_factory.mktemp("m") / "checkpoint-3"))
    names = sorted(set(list_files(folder)) - {MARKER})
    path = folder / data.draw(st.sampled_from(names))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert newest_complete(folder.parent, contents=True) is None


def test_a_shard_that_cannot_be_trusted_makes_an_older_one_the_newest(make: Make) -> None:
    make(3)
    newer = make(6)
    content = bytearray((newer / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (newer / "optimizer.pt").write_bytes(content)
    by_size, by_content = (newest_complete(newer.parent, contents=c) for c in (False, True))
    assert by_size is not None
    assert by_content is not None
    assert (by_size.step, by_content.step) == (6, 3)


def test_a_large_file_is_fingerprinted_by_samples_up_to_its_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    with path.open("wb") as file:
        file.truncate(40 << 20)
    before = fingerprint(path)
    for offset in (0, (40 << 20) - 1):
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"x")
        after = fingerprint(path)
        assert after != before
        before = after


def test_setting_aside_keeps_every_byte(make: Make) -> None:
    folder = make(3, marked=False)
    before = list_files(folder)
    (torn,) = list_checkpoints(folder.parent)
    aside = set_aside(torn)
    assert list_files(aside) == before
    assert aside.name.startswith("torn-checkpoint-3-")
    assert list_checkpoints(folder.parent) == []
    (again,) = list_checkpoints(make(3, marked=False).parent)
    assert set_aside(again) != aside


def test_nothing_is_removed_before_two_are_complete(make: Make) -> None:
    model = make(3).parent
    make(6, marked=False)
    set_aside(list_checkpoints(model)[1])
    make(9, marked=False)
    assert rotate(model, 1) == []
    assert rotate(model, 2) == []


def test_what_was_set_aside_is_never_removed_by_itself(make: Make) -> None:
    for step in (3, 6, 9):
        model = make(step).parent
    make(12, marked=False)
    aside = set_aside(list_checkpoints(model)[-1])
    before = list_files(aside)
    assert rotate(model, 2) == ["checkpoint-3"]
    assert list_files(aside) == before


@settings(max_examples=25, deadline=None)
@given(
    states=st.lists(st.booleans(), min_size=1, max_size=6),
    keep=st.one_of(st.none(), st.integers(1, 4)),
)
def test_rotation_never_removes_the_newest_two_complete_ones(
    tmp_path_factory: pytest.TempPathFactory, states: list[bool], keep: int | None
) -> None:
    model = tmp_path_factory.mktemp("model")
    for number, complete in enumerate(states):
        folder = write_plain(model / f"checkpoint-{number}")
        if complete:
            mark(folder)
    before = [c.step for c in list_checkpoints(model) if c.complete]
    rotate(model, keep)
    after = [c.step for c in list_checkpoints(model) if c.complete]
    kept = len(before) if keep is None else max(keep, 2)
    assert after == before[-kept:]
    torn = [c.step for c in list_checkpoints(model) if not c.complete]
    assert torn == [number for number, complete in enumerate(states) if not complete]


def test_the_best_checkpoint_is_protected(make: Make) -> None:
    for step in (3, 6, 9, 12):
        model = make(step).parent
    assert rotate(model, 2, protect=["checkpoint-3"]) == ["checkpoint-6"]


def test_what_a_crash_in_a_rotation_left_is_cleared(make: Make) -> None:
    model = make(3).parent
    make(6)
    (model / "checkpoint-3").rename(model / ".removing-checkpoint-3")
    assert [c.step for c in list_checkpoints(model)] == [6]
    rotate(model, 2)
    assert not (model / ".removing-checkpoint-3").exists()
