"""The plugin's settings: from the spec to its section in axolotl.yaml, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.cluster import load_cluster
from multitask.errors import InputError
from multitask.models import model_info
from multitask.planning.decide import decide
from multitask.runners.axolotl.file import AxolotlFile, axolotl_file
from multitask.runners.axolotl.schema import check_schema
from multitask.runners.axolotl.validate import AxolotlValidator, axolotl_installed
from multitask.spec import Spec, load_spec
from multitask.training_spec import PluginSettings

WriteSpec = Callable[..., Path]

_EVALUATION = {"rows_per_task": 32, "best": "worst", "floor": {"banking77": 0.5}}
_BALANCE = {"loss_weights": {"banking77": 2.0}, "schedule": "lagging"}


def _file(**changes: Any) -> AxolotlFile:
    spec = Spec.model_validate({"model": "a/b", "tasks": ["banking77"], "cluster": "cpu"} | changes)
    return axolotl_file(decide(spec, model_info("meta-llama/Llama-3.1-8B-Instruct", Path("/x"))))


def test_the_section_holds_what_the_spec_says() -> None:
    written = yaml.safe_load(_file(evaluation=_EVALUATION, balance=_BALANCE, seed=7).to_yaml())
    settings = PluginSettings.model_validate(written["multitask"])
    assert settings.seed == 7
    assert settings.evaluation.floor_of("banking77") == 0.5
    assert settings.evaluation.floor_of("another") == 0.0
    assert settings.balance.weighs
    assert settings.balance.schedule == "lagging"


def test_axolotl_evaluates_nothing_by_itself() -> None:
    """Its evaluation drops rows where training is packed, and always runs at the start."""
    config = _file().config
    assert not {"eval_steps", "evals_per_epoch", "eval_strategy"} & set(config)
    assert config["test_datasets"]


def test_an_unquoted_off_is_off(write_spec: WriteSpec) -> None:
    spec = load_spec(write_spec(balance={"schedule": False}))  # as YAML reads `off`
    assert spec.balance.schedule == "off"
    assert not spec.balance.weighs
    assert load_spec(write_spec(balance={"schedule": "off"})) == spec


@pytest.mark.parametrize(
    "change",
    [{"evaluation": {"floor": {"bankng77": 0.5}}}, {"balance": {"loss_weights": {"bankng77": 2}}}],
)
def test_a_task_that_is_none_is_refused(write_spec: WriteSpec, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="'bankng77' is no task of this spec") as caught:
        load_spec(write_spec(**change))
    assert "banking77" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation": {"rows": 5}},
        {"evaluation": {"floor": 1.5}},
        {"evaluation": {"best": "median"}},
        {"balance": {"loss_weights": {"banking77": 0}}},
        {"balance": {"limit": 0.5}},
    ],
)
def test_wrong_settings_are_refused(write_spec: WriteSpec, change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        load_spec(write_spec(**change))


def test_a_wrong_key_in_the_section_is_found_without_axolotl() -> None:
    config = _file().config
    assert not [f for f in check_schema(config) if f.place.startswith("multitask")]
    config["multitask"]["evaluation"]["rows"] = 5
    (finding,) = (f for f in check_schema(config) if f.place.startswith("multitask"))
    assert finding.place == "multitask.evaluation.rows"


@pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed")
def test_axolotl_checks_the_section_too(tmp_path: Path) -> None:
    config = _file(evaluation=_EVALUATION, balance=_BALANCE).config
    path = tmp_path / "axolotl.yaml"
    path.write_text(yaml.safe_dump(config))
    with AxolotlValidator() as validator:
        validator.validate(path, load_cluster("cpu"))
        config["multitask"]["balance"]["schedule"] = "sometimes"
        path.write_text(yaml.safe_dump(config))
        with pytest.raises(InputError, match=r"multitask\.balance\.schedule"):
            validator.validate(path, load_cluster("cpu"))
