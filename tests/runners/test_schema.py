"""The snapshot of Axolotl's schema: it is Axolotl's, and what it finds in a configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.checks import Check, refuse
from multitask.cluster import load_method
from multitask.errors import InputError
from multitask.resources import config_names
from multitask.runners.axolotl.method import method_keys
from multitask.runners.axolotl.schema import REPLACED_BY, check_schema, schema_version

_OURS = {"plugins": ["multitask.plugin.MultitaskPlugin"]}


def _one(config: dict[str, Any]) -> Check:
    (finding,) = check_schema(config)
    return finding


def _snapshot() -> dict[str, Any]:
    from multitask.runners.axolotl.make_schema import SNAPSHOT

    content: dict[str, Any] = json.loads(SNAPSHOT.read_text())
    return content


def test_the_snapshot_is_the_installed_axolotl_s() -> None:
    """After an upgrade of Axolotl, `make schema` writes it anew."""
    pytest.importorskip("axolotl")
    from multitask.runners.axolotl.make_schema import SNAPSHOT, make_schema, schema_text

    assert SNAPSHOT.read_text() == schema_text(make_schema())


def test_values_are_judged_as_axolotl_s_types_judge_them() -> None:
    """Each key with values of every kind, against pydantic on Axolotl's own fields."""
    pytest.importorskip("axolotl")
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from pydantic import TypeAdapter, ValidationError

    stricter = {  # judged by Axolotl later than by type; numbers of Pillow's enum need no text form
        *("optimizer", "lr_scheduler", "attn_implementation", "learning_rate"),
        *("datasets", "test_datasets", "pretraining_dataset", "image_resize_algorithm"),
    }
    values = [None, True, 1, 0, 1.5, -3, "x", "1", "2e-4", "true", "auto", [], ["x"], [1], {}]
    compared = 0
    for key, field in AxolotlInputConfig.model_fields.items():
        if key in stricter:
            continue
        kind: Any = (
            Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        )
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        for value in values:
            try:
                adapter.validate_python(value)
                accepted = True
            except ValidationError:
                accepted = False
            refused = [f for f in check_schema({key: value}) if "is no value" in f.answer]
            assert accepted == (not refused), (key, value)
            compared += 1
    assert compared > 5000


def test_the_core_installation_needs_no_axolotl() -> None:
    code = (
        "import sys; from multitask.runners.axolotl.schema import check_schema;"
        "assert check_schema({'wieght_decay': 0.1});"
        "assert not {'axolotl', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_the_pinned_one() -> None:
    assert schema_version().startswith("0.19.")


@pytest.mark.parametrize("method", config_names("methods"))
def test_every_shipped_method_is_known(method: str) -> None:
    keys = method_keys(load_method(method))
    assert check_schema(keys) == []
    assert ("adapter" in keys) == (method != "full")


@pytest.mark.parametrize(
    ("config", "where", "fix"),
    [
        ({"wieght_decay": 0.1}, "wieght_decay", "did you mean 'weight_decay'?"),
        ({"fsdp_config": {"state_dict_tipe": 1}}, "fsdp_config.state_dict_tipe", "state_dict_type"),
        ({"datasets": [{}, {"path": "x", "feild": "t"}]}, "datasets[1].feild", "'field'"),
        ({"qqqqqq": 1}, "qqqqqq", "Axolotl drops it without a word"),
    ],
)
def test_an_unknown_key_is_an_error(config: dict[str, Any], where: str, fix: str) -> None:
    finding = _one(config)
    assert (finding.place, finding.severity) == (where, "problem")
    assert fix in finding.remedy


@pytest.mark.parametrize(
    ("config", "fix"),
    [
        ({"sequence_len": "long"}, "give a whole number"),
        ({"fsdp_config": {"offload_params": "maybe"}}, "give true or false"),
        ({"fsdp_config": {"state_dict_type": "SHARDED_STATE"}}, "mean 'SHARDED_STATE_DICT'?"),
        ({"optimizer": "adamw_troch"}, "did you mean 'adamw_torch'?"),
        ({"lr_scheduler": "cosin"}, "did you mean 'cosine'?"),
        ({"attn_implementation": "flash_attention"}, "did you mean 'flash_attention_"),
        ({"chat_template": "lama3"}, "did you mean 'llama3'?"),
        ({"datasets": [3]}, "give a list, each a mapping"),
        ({"learning_rate": "fast"}, "give a number"),
    ],
)
def test_a_wrong_value_is_an_error(config: dict[str, Any], fix: str) -> None:
    finding = _one(config)
    assert not finding.passed
    assert fix in finding.remedy


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate: 2e-4",  # YAML reads text; Axolotl makes it a number
        "model_config: {rope_theta: 1.0}",
        "model_type: AutoModelForCausalLM",
        "overrides_of_model_config: {a: 1}",
        "fsdp_config: {version: 2, offload_params: false}",
        "attn_implementation: kernels-community/flash-attn3",
        "chat_template: tokenizer_default_fallback_chatml",
        "lora_target_modules: [q_proj, v_proj]",
        "gradient_checkpointing_kwargs: {use_reentrant: false}",
        "datasets: [{path: x, type: {field_instruction: a}}]",
        "rl: dpo\ndatasets: [{path: x, field_chosen: a}]",
        "wandb_project: null",
    ],
)
def test_what_axolotl_accepts_is_accepted(text: str) -> None:
    assert check_schema(yaml.safe_load(text)) == []


def test_a_dataset_s_keys_are_those_of_its_kind() -> None:
    """Supervised fine-tuning drops a key of preference data as it drops any other."""
    assert "field_chosen" in _one({"datasets": [{"path": "x", "field_chosen": "a"}]}).answer


def test_a_plugin_s_keys_need_the_plugin() -> None:
    liger = "axolotl.integrations.liger.LigerPlugin"
    finding = _one(_OURS | {"liger_rms_norm": True})
    assert "LigerPlugin, which is not in 'plugins'" in finding.answer
    assert check_schema({"plugins": [*_OURS["plugins"], liger], "liger_rms_norm": True}) == []


def test_a_pass_through_without_plugins_may_hold_a_plugin_s_keys() -> None:
    """It is the whole configuration that says which plugins there are."""
    assert check_schema({"liger_rms_norm": True, "cut_cross_entropy": True}) == []


def test_an_unknown_plugin_may_know_the_key() -> None:
    finding = _one({"plugins": ["my.Plugin"], "my_strength": 1})
    assert finding.severity == "warning"


@pytest.mark.parametrize(
    ("config", "severity", "fix"),
    [
        ({"sdp_attention": True}, "warning", "use attn_implementation: sdpa"),
        ({"fsdp_config": {"fsdp_offload_params": True}}, "warning", "use 'offload_params'"),
        ({"rope_scaling": {"type": "linear"}}, "problem", "use model_config"),
        ({"unsloth_rope": True}, "problem", "use 'liger_rope'"),
        ({"datasets": [{"message_field_role": "from"}]}, "warning", "message_property_mappings"),
    ],
)
def test_a_deprecated_key_is_said(config: dict[str, Any], severity: str, fix: str) -> None:
    finding = _one(config)
    assert finding.severity == severity
    assert fix in finding.remedy


def test_each_deprecated_key_that_is_warned_of_has_a_replacement() -> None:
    keys = _snapshot()["keys"]
    warned = {key for key, entry in keys.items() if entry.get("deprecated") == "warned"}
    assert len(warned) > 10
    assert warned <= set(REPLACED_BY)


def test_replacements_are_keys_that_axolotl_knows() -> None:
    for replacement in REPLACED_BY.values():
        for word in replacement.split(" and "):
            key, _, value = word.partition(": ")
            section, _, inner = key.partition(".")
            if section == "message_property_mappings":
                continue  # of a dataset
            config = {section: {inner: None}} if inner else {section: value or None}
            assert [f for f in check_schema(config) if not f.passed] == [], word


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(key=st.sampled_from(sorted(_snapshot()["keys"])), value=_json)
def test_no_value_crashes_the_check(key: str, value: Any) -> None:
    for finding in check_schema({key: value}):
        assert finding.place.startswith(key)


def test_refusing_names_every_error_at_once() -> None:
    with pytest.raises(InputError) as error:
        refuse(check_schema({"wieght_decay": 1, "sequence_len": "x"}), where="key 'axolotl'")
    assert "2 things are wrong" in str(error.value)
    assert "wieght_decay" in str(error.value)
    assert "sequence_len" in str(error.value)


def test_refusing_passes_warnings_on() -> None:
    found = refuse(check_schema({"sdp_attention": True}))
    assert [finding.severity for finding in found] == ["warning"]
