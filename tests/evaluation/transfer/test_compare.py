"""A shared model against models of single tasks: only on the very same rows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from jsonschema import Draft202012Validator

from multitask.data.readers import read_rows
from multitask.errors import InputError
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.transfer import compare_runs, settings_that_differ
from multitask.reports.load import gather
from multitask.reports.terminal import print_interference
from multitask.reports.write import write_report
from multitask.resources import resource_dir
from multitask.run import Run
from tests.evaluation.transfer.conftest import QUICK, TASKS, Runs


def _compare(runs: Runs, **wanted: Any) -> dict[str, Any]:
    wanted = {"settings": QUICK, "limit": 20} | wanted
    return compare_runs(runs.together, list(runs.alone.values()), **wanted)[1]


def _right(run: Run, task: str) -> list[bool]:
    table = pq.read_table(run.evaluations / "trained/predictions.parquet").to_pylist()
    return [row["gold"] == row["predicted"] for row in table if row["task"] == task]


def test_each_task_is_compared_row_by_row(runs: Runs) -> None:
    record = _compare(runs)
    assert list(record["tasks"]) == list(TASKS)
    for task, found in record["tasks"].items():
        mine, theirs = _right(runs.together, task), _right(runs.alone[task], task)
        gained = sum(mine) - sum(theirs)
        assert found["differences"]["accuracy"]["value"] == pytest.approx(gained / len(mine))
        assert found["only_this"] == sum(a and not b for a, b in zip(mine, theirs, strict=True))
        assert (found["test"], found["run"]) == ("exact", task)
        assert found["p_holm"] >= found["p_value"]
        assert found["budget"]["same_training_rows"]
    assert record["not_compared"] == []


def test_the_relative_gain_is_the_mean_over_tasks(runs: Runs) -> None:
    record = _compare(runs)
    gains = []
    for task in TASKS:
        mine, theirs = sum(_right(runs.together, task)), sum(_right(runs.alone[task], task))
        gains.append((mine - theirs) / theirs)
    assert record["relative_gain"]["value"] == pytest.approx(sum(gains) / 2)


def test_the_record_fits_its_schema_and_lies_beside_the_evaluation(runs: Runs) -> None:
    record = _compare(runs)
    schema = json.loads((resource_dir("configs") / "schema/interference.schema.json").read_text())
    assert [e.json_path for e in Draft202012Validator(schema).iter_errors(record)] == []
    path = runs.together.evaluations / "trained/interference.json"
    assert json.loads(path.read_text()) == record


def test_what_is_evaluated_is_taken_as_it_is(runs: Runs) -> None:
    first = _compare(runs)
    shutil.rmtree(runs.together.model)  # evaluations copied from the machine with the weights
    for run in runs.alone.values():
        shutil.rmtree(run.model)
    assert _compare(runs)["tasks"] == first["tasks"]


def test_weights_that_changed_are_evaluated_again_or_refused(runs: Runs) -> None:
    _compare(runs)
    shutil.copytree(runs.alone["banking77"].model, runs.together.model, dirs_exist_ok=True)
    said: list[str] = []
    before = (runs.together.evaluations / "trained/results.json").read_text()
    _compare(runs, report=said.append)
    assert (runs.together.evaluations / "trained/results.json").read_text() != before
    shutil.copytree(
        runs.alone["text_claims"].model, runs.alone["banking77"].model, dirs_exist_ok=True
    )
    with pytest.raises(InputError, match="of other weights"):
        _compare(runs)


def test_a_task_without_a_run_of_it_alone_is_named(runs: Runs) -> None:
    _, record = compare_runs(runs.together, [runs.alone["banking77"]], limit=10, settings=QUICK)
    assert record["not_compared"] == ["text_claims"]
    assert list(record["tasks"]) == ["banking77"]


def test_other_rows_are_refused(runs: Runs) -> None:
    path = runs.alone["banking77"].split("test")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match="1 of 30 rows are missing there"):
        _compare(runs, limit=None)


def test_rows_of_the_same_ids_with_another_prompt_are_refused(runs: Runs) -> None:
    path = runs.alone["banking77"].split("test")
    rows = read_rows(path)
    rows[3]["messages"][0]["content"] += " Please."
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"1 of 20 rows have another prompt(.|\n)*single-task"):
        _compare(runs)


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        ({"limit": 5}, "of the first 5 rows"),
        ({"limit": 20, "split": "validation"}, "of the split validation"),
        ({"limit": 20, "settings": replace(QUICK, dtype="bfloat16")}, "with dtype bfloat16"),
    ],
)
def test_an_evaluation_of_something_else_is_not_replaced(
    runs: Runs, earlier: dict[str, Any], message: str
) -> None:
    single = runs.alone["banking77"]
    evaluate(single, **({"settings": QUICK} | earlier))
    path = single.evaluations / "trained/results.json"
    before = path.read_bytes()
    with pytest.raises(InputError, match=message):
        _compare(runs)
    assert path.read_bytes() == before


def test_a_run_against_itself_or_twice_is_refused(runs: Runs) -> None:
    with pytest.raises(InputError, match="compared with itself"):
        compare_runs(runs.together, [runs.together], settings=QUICK)
    single = runs.alone["banking77"]
    with pytest.raises(InputError, match="one run for each task"):
        compare_runs(runs.together, [single, single], settings=QUICK)


def test_a_run_of_other_tasks_is_refused(runs: Runs, trained: Run) -> None:
    spec = yaml.safe_load(runs.together.spec.read_text())
    assert spec["tasks"] == list(TASKS)
    with pytest.raises(InputError, match="has no task of"):
        compare_runs(runs.alone["text_claims"], [runs.alone["banking77"]], settings=QUICK)


def test_trainings_that_differ_in_more_are_told_so() -> None:
    one = {"learning_rate": 1e-4, "micro_batch_size": 4, "lora_r": 8, "wandb_project": "x"}
    other = {"learning_rate": 2e-4, "micro_batch_size": 8, "lora_r": 8, "num_epochs": 9}
    assert settings_that_differ(one, other) == [("learning_rate", 1e-4, 2e-4)]


def test_another_base_model_is_told(runs: Runs) -> None:
    notes = _compare(runs)["notes"]
    assert "banking77 was trained from another base model" in notes
    for run in runs.alone.values():
        shutil.copytree(runs.together.root / "base", run.root / "base", dirs_exist_ok=True)
    assert not any("base model" in note for note in _compare(runs)["notes"])


def test_the_report_shows_what_was_gained_and_lost(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    record = _compare(runs)
    html, markdown = write_report(runs.together)
    for path in (html, markdown):
        text = path.read_text()
        assert "What sharing one model gave and took" in text
        assert "Mean relative gain" in text
    assert "single-task" in html.read_text()
    task = gather(runs.together)["tasks"][0]
    assert "single-task" in [o["name"] for o in task["opponents"]]
    assert "single-task" in [system["name"] for system in task["systems"]]
    results = json.loads((runs.together.evaluations / "trained/results.json").read_text())
    print_interference(record, results)
    assert "mean relative gain" in capsys.readouterr().out


def test_a_comparison_of_an_older_evaluation_is_not_shown(runs: Runs) -> None:
    _compare(runs)
    shutil.copytree(runs.alone["banking77"].model, runs.together.model, dirs_exist_ok=True)
    evaluate(runs.together, limit=20, settings=QUICK)
    content = gather(runs.together)
    assert content["sharing"] is None
    assert any("compare again" in note for note in content["notes"])
