"""The schema by which editors complete a spec: made from the classes, and as strict as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from typer.testing import CliRunner

from multitask.cli import app
from multitask.files import parse_yaml, read_mapping
from multitask.resources import resource_dir
from multitask.spec import Spec, load_spec
from multitask.spec_schema import spec_schema

STORED = resource_dir("configs/schema") / "spec.schema.json"
SCHEMA = json.loads(STORED.read_text(encoding="utf-8"))
ROOT = Path(__file__).parents[1]
SHORTEST = {"model": "owner/name", "tasks": ["banking77"]}
OWN = {"name": "mine", "kind": "rating", "source": {"path": "x.csv"}, "scale": "1-5"}


def _complaints(spec: Any) -> list[str]:
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(spec)]


def test_the_stored_schema_is_that_of_the_classes() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert spec_schema() == SCHEMA, "write it anew: make schema"


def test_every_key_says_what_it_does() -> None:
    nodes = {"Spec": SCHEMA, **SCHEMA["$defs"]}
    assert [
        f"{name}.{key}"
        for name, node in nodes.items()
        if name not in ("AnyOf", "WandbSpec")  # one sentence says it of all their keys
        for key, value in node["properties"].items()
        if not value.get("description")
    ] == []
    assert not re.search("``|:data:|Attributes:", json.dumps(SCHEMA))


def _examples() -> list[Any]:
    files = sorted(resource_dir("configs/examples").glob("*.yaml"))
    shipped = [read_mapping(path) for path in files]
    # Also with the keys that an example shows as comments, from the first that is no task's.
    commented = (path.read_text(encoding="utf-8").partition("\n# name:") for path in files)
    keys = [re.sub(r"(?m)^# ", "", "".join(parts[1:])) for parts in commented]
    whole = [
        example | parse_yaml(key, path)
        for example, key, path in zip(shipped, keys, files, strict=True)
    ]
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [
        parse_yaml(block, page)
        for page in pages
        for block in re.findall(r"(?m)^    model: .*\n(?:    .*\n|\n(?=    ))*", page.read_text())
    ]
    return [*shipped, *whole, *blocks]


def test_every_example_fits() -> None:
    examples = _examples()
    assert len(examples) == 3
    assert [_complaints(example) for example in examples] == [[] for _ in examples]


def test_every_shipped_task_fits() -> None:
    for path in sorted(resource_dir("templates").glob("*.yaml")):
        task = {"name": path.stem} | read_mapping(path)
        assert _complaints(SHORTEST | {"tasks": [task]}) == [], path


@pytest.mark.parametrize(
    "wrong",
    [
        {"modle": "x"},
        {"epochs": 0},
        {"split": {"train": 1.0}},
        {"sharding": "zero4"},
        {"mixture": {"temperature": 0.5}},
        {"checkpoint": {"keep": 1}},
        {"tasks": []},
        {"tasks": [OWN | {"kind": "regression"}]},
        {"tasks": [OWN | {"colour": "red"}]},
        {"evaluation": {"floor": {"banking77": 2}}},
        {"tracking": {"wandb": {}}},
    ],
    ids=str,
)
def test_it_refuses_what_the_classes_refuse(wrong: dict[str, Any]) -> None:
    assert _complaints(SHORTEST | wrong)
    with pytest.raises(ValidationError):
        Spec.model_validate(SHORTEST | wrong)


@pytest.mark.parametrize("right", [{}, {"tasks": [OWN]}, {"general": [OWN]}], ids=str)
def test_it_takes_what_the_classes_take(right: dict[str, Any]) -> None:
    assert _complaints(SHORTEST | right) == []
    Spec.model_validate(SHORTEST | right)


def test_init_names_it_for_editors(tmp_path: Path) -> None:
    spec = tmp_path / "multitask.yaml"
    assert CliRunner().invoke(app, ["init", str(spec)]).exit_code == 0
    first = spec.read_text(encoding="utf-8").splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(.*)", first)
    assert named is not None
    assert Path(named[1]).samefile(STORED)
    load_spec(spec)
