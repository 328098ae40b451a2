"""Single-task specs of a multi-task run: the same budget, and nothing that overwrites."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from multitask.build import build_config
from multitask.data.prepare import prepare
from multitask.errors import InputError
from multitask.evaluation.transfer import (
    budgets,
    same_budget,
    sequences_per_step,
    single_task_specs,
    write_single_task_specs,
)
from multitask.run import Run
from multitask.spec import HubSpec, Spec, load_spec
from multitask.training_spec import BalanceSpec


@pytest.fixture
def spec(sample_spec: Spec, toy: Path) -> Spec:
    return sample_spec.model_copy(update={"model": str(toy), "epochs": 3, "sequence_len": 256})


@pytest.fixture
def run(spec: Spec, tmp_path: Path) -> Run:
    return build_config(spec, tmp_path / "run", validate=False).run


def _trained_for(run: Run, steps: int) -> None:
    run.logs.mkdir()
    event = {"event": "end", "time": 0, "step": steps, "max_steps": steps}
    run.trainer_events.write_text(json.dumps(event) + "\n")


def test_there_is_one_for_each_task_and_it_loads(run: Run, tmp_path: Path) -> None:
    written = write_single_task_specs(run.root, tmp_path / "specs")
    assert [path.name for _, path in written] == [
        "text_claims.yaml", "banking77.yaml", "commonsense_qa.yaml",
    ]  # fmt: skip
    for single, path in written:
        assert load_spec(path).kept == (single.task,)
        assert path.read_text().startswith("# Written by")


def test_what_is_built_from_them_has_the_same_budget_in_rows(run: Run, tmp_path: Path) -> None:
    whole = budgets(run)
    for single, path in write_single_task_specs(run.root, tmp_path / "specs"):
        built = build_config(load_spec(path), tmp_path / single.task, validate=False).run
        (alone,) = budgets(built).values()
        assert same_budget(whole[single.task], alone) == "rows"
        assert alone["seen"] == 3 * alone["rows"]
        assert sequences_per_step(built) == sequences_per_step(run)


def test_settings_are_kept_but_for_what_needs_several_tasks_or_overwrites(
    spec: Spec, tmp_path: Path
) -> None:
    balance = BalanceSpec(loss_weights={"banking77": 2.0})
    changes = {"balance": balance, "hub": HubSpec(repo="me/model"), "global_batch_size": 8}
    path = tmp_path / "spec.yaml"
    path.write_text(spec.model_copy(update=changes).to_yaml())
    single = single_task_specs(path)[1].spec
    assert (single.hub, single.balance) == (None, BalanceSpec())
    assert single.name == "multitask-banking77"
    for key in ("model", "method", "seed", "learning_rate", "sequence_len", "templates", "epochs"):
        assert getattr(single, key) == getattr(spec, key)


def test_a_budget_in_steps_is_that_of_the_training(run: Run) -> None:
    _trained_for(run, 55)
    for single in single_task_specs(run.root, "steps"):
        assert single.spec.axolotl["max_steps"] == 55
        rows = json.loads(run.manifest.read_text())["tasks"][single.task]["mixture"]["rows"]
        batch = sequences_per_step(run)
        assert batch is not None
        # Enough passes for all steps.
        assert single.spec.epochs * rows >= 55 * batch
    assert "the 55 optimizer steps" in single.to_yaml()


def test_steps_are_not_known_before_the_training(run: Run) -> None:
    with pytest.raises(InputError, match="known once it is trained"):
        single_task_specs(run.root, "steps")


def test_a_batch_that_follows_from_data_needs_a_built_run(spec: Spec, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(spec.to_yaml())
    with pytest.raises(InputError, match="set `global_batch_size`"):
        single_task_specs(path)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "global_batch_size": 4}))
    assert [single.spec.global_batch_size for single in single_task_specs(path)] == [4, 4, 4]


def test_one_task_alone_shares_nothing(sample_spec: Spec, toy: Path, tmp_path: Path) -> None:
    spec = sample_spec.model_copy(update={"model": str(toy), "only": ("banking77",)})
    run = prepare(spec, tmp_path / "run")
    with pytest.raises(InputError, match="one task alone"):
        single_task_specs(run.root)


def test_a_folder_with_content_is_left_alone(run: Run, tmp_path: Path) -> None:
    write_single_task_specs(run.root, tmp_path / "specs")
    with pytest.raises(InputError, match="exists already"):
        write_single_task_specs(run.root, tmp_path / "specs")
