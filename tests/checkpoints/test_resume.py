"""From where a training goes on, and what keeps it from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from multitask.checkpoints import choose_resume
from multitask.errors import InputError
from multitask.run import Run
from tests.checkpoints.conftest import INPUTS, save, write_config, write_manifest, write_plain


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: write_manifest(run, "other"), "data/train.jsonl"),
        (lambda run: write_config(run, learning_rate=0.2), "learning_rate: 0.1 then, 0.2 now"),
        (lambda run: write_config(run, learning_rate=0.1, seed=3), "seed: not set then, 3 now"),
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
        run, learning_rate=0.1, save_steps=9, logging_steps=1, wandb_project="p", multitask=section
    )
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
