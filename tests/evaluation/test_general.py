"""General tasks: never trained on, scored by both models, so that forgetting shows."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multitask.data.general import read_entries, read_general
from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.errors import InputError
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.requests import Settings
from multitask.run import Run
from multitask.spec import Spec
from multitask.task_spec import TaskSpec

QUICK = Settings(baselines=False, generate=0, calibration="none")


@pytest.fixture
def file(trained: Run, tmp_path: Path) -> Path:
    """A task of 20 rows, of which two say what a training row says, one of them in capitals."""
    train = [row["text"] for row in read_rows(trained.split("train"))]
    texts = [f"number {i} is {'even' if i % 2 == 0 else 'odd'}" for i in range(18)]
    texts += [train[0], train[1].upper()]
    with (tmp_path / "parity.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        writer.writerows([text, ("yes", "no")[i % 2]] for i, text in enumerate(texts))
    path = tmp_path / "parity.yaml"
    path.write_text("{name: parity, kind: classification, source: {path: parity.csv}}\n")
    return path


@pytest.fixture
def results(trained_copy: Run, file: Path) -> dict[str, Any]:
    entries = read_entries([str(file)])
    found = evaluate(trained_copy, general=entries, limit=6, settings=QUICK).general
    assert found is not None
    return found


def test_both_models_are_scored_and_compared(trained_copy: Run, results: dict[str, Any]) -> None:
    folder = trained_copy.evaluations
    before = json.loads((folder / "base/general/results.json").read_text())
    after = json.loads((folder / "trained/general/results.json").read_text())
    assert after == results
    assert (results["split"], results["tasks"]["parity"]["n"]) == ("general", 6)
    compared = results["comparisons"]["base/general"]["parity"]
    own, other = (r["tasks"]["parity"]["metrics"]["accuracy"]["value"] for r in (after, before))
    assert compared["differences"]["accuracy"]["value"] == pytest.approx(own - other)
    assert compared["metrics"] == before["tasks"]["parity"]["metrics"]


def test_the_own_tasks_are_scored_as_ever(trained_copy: Run, results: dict[str, Any]) -> None:
    own = json.loads((trained_copy.evaluations / "trained/results.json").read_text())
    assert list(own["tasks"]) == ["text_claims", "banking77", "commonsense_qa"]
    assert "parity" not in own["comparisons"]
    assert not (trained_copy.evaluations / "base/results.json").exists()


def test_rows_that_were_trained_on_are_left_out_and_counted(
    trained_copy: Run, results: dict[str, Any]
) -> None:
    (found,) = read_general(trained_copy, ["parity"])
    assert found.record["left_out"] == {"exact": 1, "normalised": 1}
    assert len(found.rows) == 18
    trained_on = {row["text"].lower() for row in read_rows(trained_copy.split("train"))}
    assert trained_on.isdisjoint(row["text"].lower() for row in found.rows)
    assert results["notes"] == ["parity: 2 rows that repeat a training row were left out"]


def test_the_base_is_not_scored_again(trained_copy: Run, results: dict[str, Any]) -> None:
    path = trained_copy.evaluations / "base/general/results.json"
    before = path.stat().st_mtime_ns
    general = [TaskSpec(name="parity", kind="classification", source={"path": "gone.csv"})]
    evaluate(trained_copy, general=general, limit=6, settings=QUICK)
    assert path.stat().st_mtime_ns == before


def test_a_spec_with_general_tasks_keeps_their_rows_in_the_run(
    sample_spec: Spec, trained: Run, file: Path, tmp_path: Path
) -> None:
    general = tuple(read_entries([str(file)]))
    spec = sample_spec.model_copy(update={"general": general})
    run = prepare(spec, tmp_path / "run")
    assert len(read_general(run, ["parity"])[0].rows) == 18
    assert json.loads(run.manifest.read_text())["general"] == ["parity"]
    # The rows of the run's own tasks are those that it has without.
    assert run.split("train").read_bytes() == trained.split("train").read_bytes()


def test_they_are_scored_without_asking_where_the_spec_names_them(
    sample_spec: Spec, toy: Path, file: Path, tmp_path: Path
) -> None:
    changes = {"general": tuple(read_entries([str(file)])), "model": str(toy)}
    run = prepare(sample_spec.model_copy(update=changes), tmp_path / "run")
    found = evaluate(run, model=str(toy), name="same", limit=3, settings=QUICK).general
    assert found is not None
    compared = found["comparisons"]["base/general"]["parity"]
    assert compared["differences"]["accuracy"]["value"] == 0
    assert compared["p_value"] == 1


def test_rows_that_somebody_cut_are_refused(trained_copy: Run, results: dict[str, Any]) -> None:
    path = trained_copy.data / "general/parity.jsonl"
    path.write_text(path.read_text().split("\n", 1)[1])
    with pytest.raises(InputError, match="17 rows where 18 were written"):
        evaluate(trained_copy, general=[TaskSpec.model_validate(_SPEC)], settings=QUICK)


_SPEC = {"name": "parity", "kind": "classification", "source": {"path": "parity.csv"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: banking77, kind: classification, source: {path: x.csv}}", "of a shipped task"),
        ("{name: x, kind: classification}", "the key 'source' is missing"),
        ("just words", "a task is a mapping"),
    ],
)
def test_a_file_without_a_task_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_entries([str(path)])


def test_a_name_that_is_neither_task_nor_file_is_refused() -> None:
    with pytest.raises(InputError, match="neither a shipped task nor a file"):
        read_entries(["mmlu"])


def test_a_task_of_the_run_is_refused(trained_copy: Run) -> None:
    with pytest.raises(InputError, match="cannot show what is forgotten"):
        evaluate(trained_copy, general=["banking77"], settings=replace(QUICK))
