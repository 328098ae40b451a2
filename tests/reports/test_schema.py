"""The published schema of results.json: true of real results, and strict."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from multitask.evaluation.evaluate import evaluate
from multitask.evaluation.settings import Settings
from multitask.metrics.kinds import METRICS
from multitask.resources import resource_dir
from multitask.run import Run

SCHEMA = json.loads((resource_dir("configs") / "schema/results.schema.json").read_text())


def _errors(results: dict[str, Any]) -> list[str]:
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(results)]


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_names_every_metric() -> None:
    assert SCHEMA["$defs"]["metrics"]["propertyNames"]["enum"] == list(METRICS)


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


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("split",), "dev"),
        (("tasks", "banking77", "n"), 0),
        (("tasks", "banking77", "metrics", "acuracy"), {"value": 1, "low": 1, "high": 1}),
        (("tasks", "banking77", "metrics", "accuracy"), 0.5),
        (("comparisons", "base", "banking77", "p_value"), 1.5),
        (("verdict",), "good"),
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
