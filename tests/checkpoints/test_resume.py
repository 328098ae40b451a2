"""From where a training goes on, and what keeps it from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multitask.checkpoints import MARKER, choose_resume, fingerprint, inventory
from multitask.checkpoints.marker import FileRecord
from multitask.errors import InputError, MultitaskError
from multitask.run import Run
from tests.checkpoints.conftest import (
    INPUTS,
    fail_to_read,
    save,
    write_config,
    write_manifest,
    write_plain,
)


def test_it_goes_on_from_the_newest_complete_one_and_sets_the_torn_aside(run: Run) -> None:
    save(run, 3)
    torn = write_plain(run.model / "checkpoint-6")
    point = choose_resume(run, 1)
    assert (point.path, point.step) == (run.model / "checkpoint-3", 3)
    assert not torn.exists()
    assert [path.name[:17] for path in point.set_aside] == ["torn-checkpoint-6"]
    assert choose_resume(run, 1).path == point.path


def test_without_a_complete_one_it_starts_from_the_base(run: Run) -> None:
    write_plain(run.model / "checkpoint-3")
    point = choose_resume(run, 1)
    assert (point.path, point.step) == (None, 0)
    assert list(run.model.glob("checkpoint-*")) == []


def test_a_newer_one_with_other_content_is_set_aside(run: Run) -> None:
    save(run, 3)
    state = save(run, 6) / "trainer_state.json"
    state.write_text(state.read_text().replace("6", "7"))
    point = choose_resume(run, 1)
    assert point.step == 3
    assert len(point.set_aside) == 1


def test_one_read_error_at_a_restart_costs_no_checkpoint(run: Run) -> None:
    """Three good checkpoints and EIO on the newest one's marker: stop, move and remove nothing."""
    for step in (3, 6, 9):
        save(run, step)
    marker = run.model / "checkpoint-9" / MARKER
    content = marker.read_bytes()
    fail_to_read(marker)
    before = sorted(path.name for path in run.model.iterdir())
    with pytest.raises(MultitaskError, match="move it out of the folder") as caught:
        choose_resume(run, 1)
    assert str(marker.parent) in str(caught.value)
    assert sorted(path.name for path in run.model.iterdir()) == before
    marker.unlink()
    marker.write_bytes(content)
    assert choose_resume(run, 1).step == 9


def test_a_shard_that_the_disk_does_not_give_stops_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, 3)
    save(run, 6)

    def refuse(path: Path) -> FileRecord:
        if path.parent.name == "checkpoint-6" and path.name == "optimizer.pt":
            raise OSError(5, "Input/output error", str(path))
        return fingerprint(path)

    monkeypatch.setattr(inventory, "fingerprint", refuse)
    with pytest.raises(MultitaskError, match=r"optimizer\.pt cannot be read"):
        choose_resume(run, 1)
    assert (run.model / "checkpoint-6").is_dir()


def test_an_older_one_that_cannot_be_read_keeps_nothing_up_and_stays(run: Run) -> None:
    save(run, 3)
    save(run, 6)
    fail_to_read(run.model / "checkpoint-3" / MARKER)
    assert choose_resume(run, 1).step == 6
    assert (run.model / "checkpoint-3").is_dir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: write_manifest(run, "other"), "data/train.jsonl"),
        (lambda run: write_config(run, learning_rate=0.2), "learning_rate: 0.1 then, 0.2 now"),
        (lambda run: write_config(run, learning_rate=0.1, seed=3), "seed: not set then, 3 now"),
        (lambda run: write_config(run, learning_rate=0.1, plugins=["a.B"]), "plugins: not set"),
        (lambda run: write_config(run, learning_rate=0.1, use_pose=True), "use_pose: not set"),
        (
            lambda run: write_config(run, learning_rate=0.1, dataloader_drop_last=True),
            "dataloader_drop_last: not set",
        ),
        (lambda run: run.spec.write_text("model: y\n"), "spec.yaml"),
    ],
)
def test_a_change_is_refused_with_its_name_and_the_way_out(
    run: Run, change: Any, words: str
) -> None:
    save(run, 3)
    change(run)
    with pytest.raises(InputError, match="--accept-changes") as caught:
        choose_resume(run, 1)
    assert words in str(caught.value)
    accepted = choose_resume(run, 1, accept_changes=True)
    assert accepted.step == 3
    assert words in accepted.changes[0]


def test_another_world_size_is_refused(run: Run) -> None:
    save(run, 3, world_size=2)
    assert choose_resume(run, 2).step == 3
    with pytest.raises(InputError, match="2 processes then, 4 now"):
        choose_resume(run, 4)


def test_a_refusal_changes_nothing_on_disk(run: Run) -> None:
    save(run, 3)
    torn = write_plain(run.model / "checkpoint-6")
    write_manifest(run, "other")
    with pytest.raises(InputError):
        choose_resume(run, 1)
    assert torn.exists()


def test_how_often_it_is_saved_or_logged_is_no_change(run: Run) -> None:
    save(run, 3)
    section = {"evaluation": {"rows_per_task": 7}}
    write_config(
        run, learning_rate=0.1, save_steps=9, logging_steps=1, wandb_project="p", use_wandb=True,
        dataloader_num_workers=2, multitask=section,
    )  # fmt: skip
    assert choose_resume(run, 1).changes == ()


def test_how_tasks_are_weighed_is_a_change(run: Run) -> None:
    save(run, 3)
    write_config(run, learning_rate=0.1, multitask={"balance": {"loss_weights": {"a": 2}}})
    with pytest.raises(InputError, match=r"multitask\.balance"):
        choose_resume(run, 1)


def test_many_changes_are_counted(run: Run) -> None:
    now = replace(INPUTS, config={f"key{i}": i for i in range(20)})
    assert INPUTS.changes_to(now)[-1] == "17 more keys of axolotl.yaml"
    assert INPUTS.changes_to(INPUTS) == ()
