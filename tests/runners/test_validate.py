"""Axolotl's own validator: asked in a process of its own, for the target's hardware."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.cluster import load_cluster
from multitask.errors import InputError
from multitask.models import ModelInfo, model_info
from multitask.planning.decide import decide
from multitask.runners.axolotl.file import axolotl_file
from multitask.runners.axolotl.validate import AxolotlValidator, axolotl_installed, capabilities
from multitask.runners.launch import accelerate_yaml
from multitask.spec import Spec

pytestmark = pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed")
_CLUSTER = load_cluster("3x4-a100-80gb")
_LIGER = "axolotl.integrations.liger.LigerPlugin"

Validate = Callable[..., tuple[str, ...]]


@pytest.fixture(scope="module")
def validator() -> Iterator[AxolotlValidator]:
    """One process for all tests here, as a caller with many configurations would use it."""
    with AxolotlValidator() as started:
        yield started


@pytest.fixture
def validate(validator: AxolotlValidator, tmp_path: Path) -> Validate:
    """Validate the default configuration with some keys changed."""
    spec = Spec.model_validate({"model": "meta-llama/Llama-3.1-8B", "tasks": ["banking77"]})
    config = axolotl_file(decide(spec, model_info(spec.model, tmp_path))).config
    base = {key: value for key, value in config.items() if not key.startswith("liger_")}
    base["plugins"] = config["plugins"][:1]

    def run(**changes: Any) -> tuple[str, ...]:
        path = tmp_path / "axolotl.yaml"
        path.write_text(yaml.safe_dump(base | changes))
        return validator.validate(path, _CLUSTER)

    return run


def test_the_default_is_accepted_with_a_notice_of_its_lora_kernels(validate: Validate) -> None:
    (warning,) = validate()
    assert warning.startswith("Auto-enabling LoRA kernel optimizations")


def test_a_plugin_of_one_question_is_not_in_the_next(validate: Validate) -> None:
    plugins = ["multitask.plugin.MultitaskPlugin", _LIGER]
    validate(plugins=plugins, liger_rms_norm=True)
    with pytest.raises(InputError, match="does not know the key 'liger_rms_norm'"):
        validate(liger_rms_norm=True)


def test_an_unknown_key_is_refused_with_a_suggestion(validate: Validate) -> None:
    """Axolotl itself drops it without a word."""
    with pytest.raises(InputError, match="'wieght_decay'") as error:
        validate(wieght_decay=0.1)
    assert "did you mean 'weight_decay'?" in str(error.value)


def test_a_plugin_that_cannot_be_imported_is_refused(validate: Validate) -> None:
    """Axolotl itself logs it and trains without."""
    with pytest.raises(InputError, match=r"'no\.such\.Plugin' cannot be imported"):
        validate(plugins=["no.such.Plugin"])


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"sequence_len": "long"}, "axolotl.yaml: sequence_len", "valid integer"),
        ({"fsdp_config": {"offload_params": "maybe"}}, "fsdp_config.offload_params", "boolean"),
        ({"warmup_steps": 10}, "axolotl.yaml: ", "mutually exclusive"),
        ({"rope_scaling": {"type": "x"}}, "axolotl.yaml: ", "no longer supported"),
        ({"fsdp_config": "x"}, "axolotl.yaml: ", "refuses"),
        ({"plugins": ["x"]}, "axolotl.yaml: ", "refuses"),
    ],
)
def test_a_refusal_names_key_complaint_and_remedy(
    validate: Validate, changes: dict[str, Any], where: str, message: str
) -> None:
    with pytest.raises(InputError) as error:
        validate(**changes)
    text = str(error.value)
    assert where in text
    assert message in text
    assert "\n  fix: change" in text
    assert "pydantic" not in text


def test_several_complaints_are_counted(validate: Validate) -> None:
    with pytest.raises(InputError, match=r"\(and 1 more\)"):
        validate(sequence_len="long", micro_batch_size="many")


def test_what_axolotl_warns_of_is_returned(validate: Validate) -> None:
    assert any("sample_packing & torch sdpa" in w for w in validate(attn_implementation="sdpa"))


def test_the_target_s_hardware_counts(validate: Validate) -> None:
    with pytest.raises(InputError, match="fp8 requested"):
        validate(fp8=True)


def test_capabilities_are_the_cluster_s() -> None:
    assert capabilities(_CLUSTER)["n_gpu"] == 12
    assert capabilities(_CLUSTER)["compute_capability"] == "sm_80"
    assert not capabilities(load_cluster("cpu"))["bf16"]


@pytest.mark.usefixtures("own_validator")
def test_a_launcher_s_variables_do_not_reach_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sample_spec: Spec
) -> None:
    """With WORLD_SIZE set, Axolotl would wait for the other processes."""
    monkeypatch.setenv("WORLD_SIZE", "12")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    cluster = load_cluster("cpu")
    config = axolotl_file(decide(sample_spec, ModelInfo())).config
    path = tmp_path / "axolotl.yaml"
    path.write_text(yaml.safe_dump(config))
    with AxolotlValidator() as validator:
        assert validator.validate(path, cluster) == ()


@pytest.mark.usefixtures("own_validator")
def test_a_process_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Axolotl that cannot be imported, here one without any content."""
    (tmp_path / "axolotl").mkdir()
    (tmp_path / "axolotl" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    with (
        AxolotlValidator() as validator,
        pytest.raises(InputError, match="did not answer") as error,
    ):
        validator.validate(tmp_path / "axolotl.yaml", _CLUSTER)
    assert "No module named 'axolotl.utils'" in str(error.value)


def test_accelerate_s_file_is_read_by_accelerate(
    validator: AxolotlValidator, tmp_path: Path
) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text(accelerate_yaml(_CLUSTER))
    validator.validate_accelerate(path)
    path.write_text(accelerate_yaml(_CLUSTER) + "num_machine: 3\n")
    with pytest.raises(InputError, match="num_machine"):
        validator.validate_accelerate(path)
    path.write_text("num_processes: 12\n")
    with pytest.raises(InputError, match="distributed_type"):
        validator.validate_accelerate(path)
