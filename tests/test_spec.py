"""Specs: what is filled in, and what each mistake is answered with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from multitask.errors import InputError
from multitask.resources import resource_dir
from multitask.spec import Spec, load_spec

WriteSpec = Callable[..., Path]


def test_the_shortest_spec_gets_every_default(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "model: meta-llama/Llama-3.1-8B-Instruct\ntasks: [text_claims, banking77, commonsense_qa]\n"
    )
    spec = load_spec(path)
    assert (spec.epochs, spec.split.train, spec.cluster) == (2, 0.8, "3x4-a100-80gb")


def test_a_resolved_spec_reads_back_as_itself(write_spec: WriteSpec, tmp_path: Path) -> None:
    spec = load_spec(write_spec(axolotl={"weight_decay": 0.1}, hub={"repo": "me/it"}))
    again = tmp_path / "again.yaml"
    again.write_text(spec.to_yaml())
    assert load_spec(again) == spec


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lerning_rate": 1e-4}, ["unknown key 'lerning_rate'", "did you mean 'learning_rate'"]),
        ({"split": {"trian": 0.8}}, ["unknown key 'trian'", "in 'split'", "did you mean 'train'"]),
        (
            {"tracking": {"wandb": {"projct": "x"}}},
            ["unknown key 'projct'", "did you mean 'project'"],
        ),
        ({"tasks": ["banking7"]}, ["unknown task 'banking7'", "did you mean 'banking77'"]),
        ({"tasks": ["banking77", "banking77"]}, ["'banking77' is listed twice"]),
        ({"tasks": []}, ["key 'tasks'"]),
        ({"model": None}, ["the key 'model' is missing", "add `model:"]),
        ({"tasks": None}, ["the key 'tasks' is missing"]),
        ({"model": None, "modle": "a/b"}, ["unknown key 'modle'", "did you mean 'model'"]),
        ({"epochs": "many"}, ["key 'epochs'", "'many'"]),
        ({"split": {"train": 1.5}}, ["key 'split.train'", "1.5"]),
        ({"model": "./nowhere"}, ["no model folder at", "key 'model'"]),
        ({"data_dir": "x"}, ["exclude each other"]),
    ],
)
def test_a_mistake_names_file_key_and_remedy(
    write_spec: WriteSpec, changes: dict[str, object], expected: list[str]
) -> None:
    path = write_spec(**changes)
    with pytest.raises(InputError) as error:
        load_spec(path)
    message = str(error.value)
    assert str(path) in message
    assert all(part in message for part in expected), message
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model: [unclosed\ntasks: x", "not valid YAML"),
        ("- a\n- b\n", "a mapping of keys"),
        ("", "a mapping of keys"),
    ],
)
def test_a_file_that_is_no_spec(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=expected):
        load_spec(path)


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such spec file"):
        load_spec(tmp_path / "missing.yaml")


def test_a_local_model_is_found_from_the_spec_file(write_spec: WriteSpec, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.json").write_text("{}")
    assert load_spec(write_spec(model="./toy")).model == str(tmp_path / "toy")


def test_a_model_folder_without_config_is_refused(write_spec: WriteSpec, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        load_spec(write_spec(model="./toy"))


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type speaks of, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_of(part)]


def keys_below(annotation: Any) -> Iterator[str]:
    for model in models_of(annotation):
        for key, field in model.model_fields.items():
            yield key
            yield from keys_below(field.annotation)


@pytest.fixture
def example() -> str:
    """The example, up to date by these tests: each key is told of, with its true default."""
    return (resource_dir("configs/examples") / "default.yaml").read_text()


def test_every_key_of_the_spec_is_named_in_the_example(example: str) -> None:
    starts = list(re.finditer(r"^(?:# )?(\w+):", example, re.MULTILINE))
    ends = [start.start() for start in starts[1:]] + [len(example)]
    blocks = {m.group(1): example[m.start() : end] for m, end in zip(starts, ends, strict=True)}
    assert set(blocks) == set(Spec.model_fields)
    missing = [
        f"{top}: {key}"
        for top, field in Spec.model_fields.items()
        if top != "general"  # a task as under `tasks`
        for key in keys_below(field.annotation)
        if not re.search(rf"\b{key}:", blocks[top])
    ]
    assert missing == []


def test_the_example_shows_the_true_defaults(example: str) -> None:
    commented = example[example.index("\n# name:") :]
    shown = yaml.safe_load(re.sub(r"^# ", "", commented, flags=re.MULTILINE))
    needed = {"model": "owner/model", "tasks": ["banking77"]}
    defaults = Spec.model_validate(needed).model_dump(mode="json")
    assert set(shown) == set(defaults) - set(needed)
    assert Spec.model_validate(needed | shown).model_dump(mode="json") == defaults
    # And nothing is left out of a section.
    for key, value in shown.items():
        if isinstance(value, dict):
            assert set(value) == set(defaults[key])


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("axolotl: {comet_api_key: abc}", "axolotl.comet_api_key"),
        ("axolotl: {hub_token: hf_x}", "axolotl.hub_token"),
        ("axolotl: {mlflow_tracking_uri: 'https://me:secret@host'}", "axolotl.mlflow_tracking_uri"),
        ("name: hf_abcdefghijklmnopqrstuv", "name"),
        (
            "general: [{name: x, source: {path: 'https://me:secret@host/x.csv'}}]",
            "general.source.path",
        ),
    ],
)
def test_a_secret_s_value_is_refused(tmp_path: Path, more: str, key: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"model: owner/name\ntasks: [banking77]\n{more}\n")
    with pytest.raises(InputError) as caught:
        load_spec(path)
    assert f"key '{key}'" in str(caught.value)
    assert "the value is a secret" in str(caught.value)
    assert "secret@" not in str(caught.value)
    assert "hf_abc" not in str(caught.value)


def test_words_that_are_no_secrets_stay(tmp_path: Path) -> None:
    """A label may be called password, and Axolotl's switches and special tokens are no logins."""
    path = tmp_path / "spec.yaml"
    path.write_text(
        "model: owner/name\n"
        "tasks: [{name: x, kind: classification, source: {path: x.csv}, "
        "columns: {text: secret, label: password}, labels: [password_forgotten, api_key]}]\n"
        "axolotl: {hub_token: null, use_auth_token: true, special_tokens: {pad_token: '<pad>'}}\n"
    )
    assert load_spec(path).task_names == ("x",)


@pytest.mark.parametrize("name", ["--help", "a--b/c", "a/..", "owner/name.", "x" * 97])
def test_what_the_hub_would_not_take_is_refused(write_spec: Callable[..., Path], name: str) -> None:
    with pytest.raises(InputError, match="key 'model'"):
        load_spec(write_spec(model=name))
    with pytest.raises(InputError, match=r"key 'hub\.repo'"):
        load_spec(write_spec(hub={"repo": name}))
