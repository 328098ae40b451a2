"""Evaluations: the contract's files, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from multitask.data.prepare import prepare
from multitask.data.readers import read_rows
from multitask.errors import InputError
from multitask.evaluation.calibration import load as load_calibration
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.requests import Settings
from multitask.reports.terminal import print_results
from multitask.reports.write import write_report
from multitask.run import Run
from multitask.spec import Spec, load_spec
from multitask.tasks import task_from_record
from multitask.tasks.kinds.multiple_choice import rotated

QUICK = Settings(baselines=False, generate=0)


def _table(directory: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(directory / "predictions.parquet").to_pylist()
    return rows


@pytest.fixture
def run(sample_spec: Spec, tmp_path: Path) -> Run:
    return prepare(sample_spec, tmp_path / "run")


def test_results_and_predictions_of_the_contract(run: Run, toy: Path) -> None:
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


def test_calibration_is_fitted_on_validation_and_kept_beside_the_model(trained_copy: Run) -> None:
    results = evaluate(trained_copy, settings=QUICK).results
    rows = read_rows(trained_copy.split("validation"))
    for path in (trained_copy.model, trained_copy.evaluations / "trained"):
        found = load_calibration(path / "calibration.json")
        assert set(found) == set(results["tasks"])
    for name, task in results["tasks"].items():
        record = task["calibration"]
        assert record["validation_rows"] == sum(row["task"] == name for row in rows)
        assert record["temperature"] == found[name].temperature
        assert record["before"]["log_loss"] == task["metrics"]["log_loss"]
        assert record["before"]["accuracy"]["value"] == task["metrics"]["accuracy"]["value"]
    assert results["tasks"]["banking77"]["residual_mass"]["max"] <= 3e-3


def test_contextual_calibration_takes_a_prior_out(trained_copy: Run) -> None:
    evaluate(trained_copy, settings=replace(QUICK, calibration="contextual"))
    for found in load_calibration(trained_copy.model / "calibration.json").values():
        assert found.method.startswith("contextual")
        assert found.log_prior is not None
        assert len(found.log_prior) == len(found.labels)


@pytest.mark.parametrize(
    ("wanted", "note"),
    [
        ({"split": "validation"}, "not for validation"),
        ({"settings": replace(QUICK, distribution=False)}, "needs the distribution"),
        ({"limit": 3}, "not written beside the model"),
    ],
)
def test_without_a_calibration_of_all_rows_it_is_said(
    trained_copy: Run, wanted: dict[str, Any], note: str
) -> None:
    results = evaluate(trained_copy, **({"settings": QUICK} | wanted)).results
    assert any(note in line for line in results["notes"])
    assert not (trained_copy.model / "calibration.json").exists()


def test_without_the_distribution_the_answers_are_the_same(trained_copy: Run) -> None:
    whole = evaluate(trained_copy, name="whole", settings=QUICK)
    quick = evaluate(trained_copy, name="quick", settings=replace(QUICK, distribution=False))
    one, two = _table(whole.directory), _table(quick.directory)
    assert [row["predicted"] for row in one] == [row["predicted"] for row in two]
    assert "log_loss" not in quick.results["tasks"]["banking77"]["metrics"]
    assert "log_loss" in quick.results["tasks"]["commonsense_qa"]["metrics"]


def test_rotations_ask_every_question_with_gold_at_every_position(trained: Run) -> None:
    manifest = json.loads(trained.manifest.read_text())
    task = task_from_record("commonsense_qa", manifest["tasks"]["commonsense_qa"])
    row = next(r for r in read_rows(trained.split("test")) if r["task"] == task.name)
    asked = rotated(task, row)
    assert asked[0]["messages"] == row["messages"]
    assert sorted(r["answer"] for r in asked) == list("ABCDE")
    gold = row["choices"][ord(row["answer"]) - ord("A")]
    for turned in asked:
        assert turned["choices"][ord(turned["answer"]) - ord("A")] == gold
        assert f"{turned['answer']}" == turned["messages"][1]["content"]


def test_permutations_and_both_ways_are_reported(trained_copy: Run) -> None:
    outcome = evaluate(trained_copy, settings=replace(QUICK, permutations=True, block=7))
    metrics = outcome.results["tasks"]["commonsense_qa"]["metrics"]
    assert metrics["letter_accuracy"] == metrics["accuracy"]
    for name in ("text_accuracy", "text_accuracy_normalised", "rotated_accuracy", "consistency"):
        assert 0 <= metrics[name]["value"] <= 1
    # The order as given is the first rotation: fewer blocks change nothing.
    again = evaluate(trained_copy, settings=replace(QUICK, permutations=True)).results
    for name in ("rotated_accuracy", "consistency", "position_bias"):
        value = again["tasks"]["commonsense_qa"]["metrics"][name]["value"]
        assert value == pytest.approx(metrics[name]["value"])


def test_free_answers_are_kept_parsed_and_counted(trained_copy: Run) -> None:
    settings = replace(QUICK, generate=8)
    outcome = evaluate(trained_copy, settings=settings)
    table = _table(outcome.directory)
    for name, task in outcome.results["tasks"].items():
        free = [row for row in table if row["task"] == name and row["text"] is not None]
        assert task["generated"]["n"] == len(free) == 8
        off = sum(row["text_label"] is None for row in free) / 8
        assert task["generated"]["metrics"]["off_list_rate"]["value"] == off
        hits = sum(row["text_label"] == row["gold"] for row in free) / 8
        assert task["generated"]["metrics"]["accuracy"]["value"] == hits
        closed = sum(row["predicted"] == row["gold"] for row in free) / 8
        assert task["generated"]["closed_set"]["accuracy"]["value"] == closed


def test_the_base_and_earlier_evaluations_are_compared_with(trained_copy: Run) -> None:
    settings = replace(QUICK, baselines=True)
    evaluate(trained_copy, name="earlier", settings=QUICK, limit=6)
    results = evaluate(trained_copy, base=True, against=["earlier"], settings=settings).results
    assert list(results["comparisons"]) == [
        "base", "earlier", "majority", "tfidf_logistic_regression",
    ]  # fmt: skip
    base = json.loads((trained_copy.evaluations / "base" / "results.json").read_text())
    for name, found in results["comparisons"]["base"].items():
        own, other = (r["tasks"][name]["metrics"]["accuracy"]["value"] for r in (results, base))
        assert found["differences"]["accuracy"]["value"] == pytest.approx(own - other)
        assert found["metrics"] == base["tasks"][name]["metrics"]
        assert base["tasks"][name]["baselines"] == results["tasks"][name]["baselines"]
        assert found["p_holm"] >= found["p_value"]
    for found in results["comparisons"]["earlier"].values():
        assert found["n"] == 6
        assert found["differences"]["accuracy"]["value"] == 0.0
        assert found["p_value"] == 1.0


def test_a_base_that_was_evaluated_so_is_not_evaluated_again(trained_copy: Run) -> None:
    evaluate(trained_copy, base=True, settings=QUICK)
    path = trained_copy.evaluations / "base" / "results.json"
    before, said = path.stat().st_mtime_ns, []
    evaluate(trained_copy, base=True, settings=QUICK, report=said.append)
    assert path.stat().st_mtime_ns == before
    assert any("taken as it is" in message for message in said)
    evaluate(trained_copy, base=True, settings=replace(QUICK, max_residual=1e-2))
    assert path.stat().st_mtime_ns > before


def test_the_terminal_shows_every_system_and_finding(
    trained_copy: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(QUICK, baselines=True, generate=3, permutations=True)
    print_results(evaluate(trained_copy, base=True, settings=settings).results)
    text = capsys.readouterr().out
    for words in (
        "trained", "base", "Majority label", "TF-IDF + logistic regression",
        "answered freely, 3 rows", "validation rows",
        "over all option orders", "by text per character", "p (Holm)",
    ):  # fmt: skip
        assert words in text
