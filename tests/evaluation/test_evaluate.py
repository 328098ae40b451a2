"""Evaluations: the contract's files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from multitask.data.write import prepare, read_rows
from multitask.errors import InputError
from multitask.evaluation.evaluate import evaluate
from multitask.reports.write import write_report
from multitask.run import Run
from multitask.spec import Spec, load_spec


@pytest.fixture
def run(sample_spec: Spec, tmp_path: Path) -> Run:
    return prepare(sample_spec, tmp_path / "run")


def test_results_and_predictions_of_the_contract(run: Run, toy: Path) -> None:
    import pyarrow.parquet as pq

    outcome = evaluate(run.root, model=str(toy), name="base")
    assert outcome.directory == run.root / "evaluation" / "base"
    results = json.loads((outcome.directory / "results.json").read_text())
    assert results["split"] == "test"
    rows = read_rows(run.split("test"))
    for name, task in results["tasks"].items():
        assert task["n"] == sum(row["task"] == name for row in rows)
        assert task["kind"] in ("classification", "multiple_choice")
        assert task["seconds"] > 0
        for metric in ("accuracy", "macro_f1"):
            assert set(task["metrics"][metric]) == {"value", "low", "high"}
    table = pq.read_table(outcome.directory / "predictions.parquet").to_pylist()
    assert [(p["task"], p["id"]) for p in table] == [(row["task"], row["id"]) for row in rows]
    for p in table:
        best = max(p["scores"], key=lambda entry: entry["score"])
        assert p["predicted"] == best["label"]
    hits = [p["gold"] == p["predicted"] for p in table if p["task"] == "banking77"]
    accuracy = results["tasks"]["banking77"]["metrics"]["accuracy"]["value"]
    assert accuracy == pytest.approx(sum(hits) / len(hits))


def test_a_limit_takes_the_first_rows_of_each_task(run: Run, toy: Path) -> None:
    results = evaluate(run, model=str(toy), limit=4).results
    assert [task["n"] for task in results["tasks"].values()] == [4, 4, 4]


def test_a_run_that_is_not_trained_is_refused(run: Run) -> None:
    with pytest.raises(InputError, match="no trained model"):
        evaluate(run)


def test_an_unknown_split_is_refused(run: Run) -> None:
    with pytest.raises(InputError, match="did you mean 'validation'"):
        evaluate(run, split="valid")


def test_a_folder_without_a_model_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no model"):
        evaluate(run, model=str(tmp_path / "empty"))


def test_an_adapter_without_its_base_is_refused(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="does not name its base"):
        evaluate(run, model=str(folder))


def test_own_tasks_of_every_kind_are_scored(tmp_path: Path, toy: Path) -> None:
    """Rows with options of their own number, answers by text, and generated texts."""
    choice = [
        {"question": f"question {i * 7}?", "choices": list("pqrs")[: 2 + i % 3], "answer": "A"}
        for i in range(20)
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choice))
    texts = [{"prompt": f"say {i * 11}", "response": f"word {i}"} for i in range(20)]
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    content = {
        "model": str(toy),
        "tasks": [
            {"name": "c", "kind": "multiple_choice", "source": {"path": "c.jsonl"}},
            {"name": "g", "kind": "generation", "source": {"path": "g.jsonl"}},
        ],
        "templates": {"answers": "text"},
        "cluster": "cpu",
        "leakage": {"near_duplicates": False},
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    run = prepare(load_spec(tmp_path / "spec.yaml"), tmp_path / "run")
    tasks = evaluate(run, model=str(toy)).results["tasks"]
    assert {"accuracy", "log_loss", "letter_accuracy", "text_accuracy"} <= set(
        tasks["c"]["metrics"]
    )
    assert tasks["c"]["metrics"]["accuracy"] == tasks["c"]["metrics"]["text_accuracy"]
    assert list(tasks["g"]["metrics"]) == [
        "exact_match", "token_f1", "rouge1", "rouge2", "rougeL", "bleu",
    ]  # fmt: skip
    for path in write_report(run):
        assert "Exact match" in path.read_text() or path.suffix == ".md"
