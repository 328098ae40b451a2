"""The published schema of results.json: true of real results, and strict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from multitask.data.prepare import prepare
from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.requests import Settings
from multitask.resources import resource_dir
from multitask.run import Run
from multitask.spec import load_spec

SCHEMA = json.loads((resource_dir("configs") / "schema/results.schema.json").read_text())


def _errors(results: dict[str, Any]) -> list[str]:
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(results)]


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def _walk(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for part in schema.values():
            yield from _walk(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _walk(part)


@pytest.mark.parametrize("name", ["results", "interference"])
def test_every_record_of_a_schema_is_closed(name: str) -> None:
    """A record that took any key would let a misspelt one pass."""
    schema = json.loads((resource_dir("configs") / f"schema/{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    records = [part for part in _walk(schema) if isinstance(part.get("properties"), dict)]
    assert len(records) >= 5
    assert [part for part in records if part.get("additionalProperties") is not False] == []


@pytest.fixture
def results(evaluated: Run) -> dict[str, Any]:
    return json.loads((evaluated.evaluations / "trained/results.json").read_text())


def test_real_results_fit(results: dict[str, Any]) -> None:
    assert {"calibration", "generated"} <= set(results["tasks"]["banking77"])
    assert results["comparisons"]["base"]
    assert _errors(results) == []


def test_results_without_probabilities_fit(trained_copy: Run) -> None:
    bare = Settings(distribution=False, generate=0, option_texts=False, baselines=False)
    assert _errors(evaluate(trained_copy, limit=4, settings=bare).results) == []


def test_results_of_a_generation_task_fit(tmp_path: Path, toy: Path) -> None:
    rows = [{"prompt": f"say {i * 11}", "response": f"word {i}"} for i in range(20)]
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "model": str(toy),
        "tasks": [{"name": "g", "kind": "generation", "source": {"path": "g.jsonl"}}],
        "cluster": "cpu",
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    run = prepare(load_spec(tmp_path / "spec.json"), tmp_path / "run")
    found = evaluate(run, model=str(toy), base=True, name="other").results
    assert "exact_match" in found["comparisons"]["base"]["g"]["differences"]
    assert _errors(found) == []


def test_results_say_what_they_were_made_with(results: dict[str, Any]) -> None:
    made = results["environment"]
    assert {"python", "multitask", "torch", "transformers"} <= set(made["versions"])
    assert results["schema_version"] == 2


def test_labels_that_lost_recall_are_named(results: dict[str, Any]) -> None:
    changes = results["comparisons"]["base"]["banking77"]["labels"]
    assert changes
    assert all(c["only_this"] + c["only_other"] > 0 for c in changes)
    values = [c["difference"]["value"] for c in changes]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("split",), "dev"),
        (("tasks", "banking77", "n"), 0),
        (("tasks", "banking77", "metrics", "accuracy"), 0.5),
        (("comparisons", "base", "banking77", "p_value"), 1.5),
        (("verdict",), "good"),
        (("schema_version",), 3),
        (("environment", "commit"), "yesterday"),
    ],
)
def test_other_content_does_not_fit(
    results: dict[str, Any], place: tuple[str, ...], wrong: object
) -> None:
    changed = deepcopy(results)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = wrong
    assert _errors(changed)
