"""What a stranger's job may hold: a training, no code, no file outside the volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.errors import InputError
from multitask.machine.job_spec import AXOLOTL_KEYS, MAX_BYTES, checked_spec, read_input
from multitask.spec import load_spec

SPEC: dict[str, Any] = {
    "model": "Qwen/Qwen3-0.6B",
    "tasks": ["banking77"],
    "cluster": "1x1-a100-80gb",
}


def own_task(**source: Any) -> dict[str, Any]:
    return {"tasks": [{"name": "own", "kind": "classification", "source": source}]}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """With a data file, a folder beside it, and links that lead there."""
    made = tmp_path / "volume"
    (made / "data").mkdir(parents=True)
    (made / "data" / "rows.csv").write_text("text,label\na,x\n")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "rows.csv").write_text("secret")
    (made / "link").symlink_to(outside)
    (made / "data" / "link.csv").symlink_to(outside / "rows.csv")
    return made


def test_the_shortest_spec_is_taken(volume: Path) -> None:
    given = read_input({"spec": SPEC}, volume)
    assert given.spec["model"] == "Qwen/Qwen3-0.6B"
    assert given.run_id.startswith("job-")


def test_the_same_input_has_the_same_run(volume: Path) -> None:
    first, again = (read_input({"spec": dict(SPEC)}, volume).run_id for _ in range(2))
    other = read_input({"spec": {**SPEC, "epochs": 3}}, volume).run_id
    assert first == again != other


def test_paths_on_the_volume_become_absolute(volume: Path) -> None:
    spec = checked_spec({**SPEC, **own_task(path="data/rows.csv")}, volume)
    assert spec["tasks"][0]["source"]["path"] == str(volume / "data" / "rows.csv")


def test_what_is_taken_is_a_spec(volume: Path, tmp_path: Path) -> None:
    keys = {"lora_r": 8, "lr_scheduler": "linear", "bf16": True, "lora_target_modules": ["q_proj"]}
    spec = checked_spec({**SPEC, **own_task(path="data/rows.csv"), "axolotl": keys}, volume)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    assert load_spec(path).axolotl == keys


@pytest.mark.parametrize(
    "given",
    [None, [], "x", {}, {"spec": "model: x"}, {"spec": SPEC, "command": "id"},
     {"spec": SPEC, "run_id": "../x"}, {"spec": SPEC, "run_id": 7},
     {"spec": SPEC, "max_hours": -1}, {"spec": SPEC, "max_hours": "1"},
     {"spec": SPEC, "max_hours": float("inf")}, {"spec": {**SPEC, "x": {1, 2}}}],
)  # fmt: skip
def test_inputs_of_another_form_are_refused(given: Any, volume: Path) -> None:
    with pytest.raises(InputError):
        read_input(given, volume)


def test_a_long_input_is_refused(volume: Path) -> None:
    with pytest.raises(InputError, match="256 KiB"):
        read_input({"spec": {**SPEC, "name": "x" * MAX_BYTES}}, volume)


def test_a_deep_input_is_refused(volume: Path) -> None:
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    with pytest.raises(InputError, match="nested"):
        read_input({"spec": {**SPEC, "mixture": deep}}, volume)
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError):
        read_input({"spec": {**SPEC, "mixture": deep}}, volume)


@pytest.mark.parametrize(
    "change",
    [
        {"trust_remote_code": True},
        {"trust_remote_code": "yes"},
        {"model": "/etc"},
        {"model": "../outside"},
        {"model": "a/b/c"},
        {"model": "~/model"},
        {"model": "/volume/../../etc"},
        {"model": ["x"]},
        {"model": "https://example.org/x"},
        {"cluster": "/tmp/cluster.yaml"},
        {"cluster": "cluster.yaml"},
        {"cluster": ["x"]},
        {"data_dir": "/etc"},
        {"data_dir": ".."},
        {"data_dir": "link"},
        {"hub": {"repo": "../../x"}},
        {"hub": {"repo": "a/b/c"}},
        own_task(path="/etc/passwd"),
        own_task(path="../outside/rows.csv"),
        own_task(path="link/rows.csv"),
        own_task(path="data/link.csv"),
        own_task(path="data/rows.csv\0"),
        own_task(path="data/model.bin"),
        own_task(path="~/rows.csv"),
        own_task(path=["data/rows.csv"]),
        own_task(train="data/rows.csv", test="/etc/passwd.csv"),
        own_task(hub="../x"),
        own_task(hub="https://example.org/x"),
    ],
)
def test_code_and_other_files_are_refused(change: dict[str, Any], volume: Path) -> None:
    with pytest.raises(InputError):
        checked_spec({**SPEC, **change}, volume)


@pytest.mark.parametrize(
    "keys",
    [
        {"plugins": ["os"]},
        {"trust_remote_code": True},
        {"base_model": "/etc"},
        {"output_dir": "/"},
        {"dataset_prepared_path": "/etc"},
        {"datasets": [{"path": "/etc", "type": "os:system"}]},
        {"datasets": [{"path": "x.py", "type": "completion"}]},
        {"deepspeed": "/tmp/x.json"},
        {"fsdp_config": {}},
        {"chat_template_jinja": "{{ x }}"},
        {"chat_template": "/tmp/x.jinja"},
        {"hub_model_id": "a/b"},
        {"reward_funcs": ["m.f"]},
        {"trl": {"reward_funcs": ["m.f"]}},
        {"rl": "grpo"},
        {"adapter": "x"},
        {"lora_model_dir": "/etc"},
        {"resume_from_checkpoint": "/tmp/x"},
        {"tokenizer_type": "X"},
        {"model_type": "X"},
        {"type_of_model": "X"},
        {"load_in_4bit": True},
        {"unsloth": True},
        {"curriculum_sampling": {"module": "os"}},
        {"optim_args": "x"},
        {"wandb_project": "x"},
        {"multitask": {}},
        {"lr_scheduler": "os.system"},
        {"optimizer": "custom.module.Class"},
        {"lora_target_modules": "(a+)+$"},
        {"lora_target_modules": ["(a+)+$"]},
        {"lora_target_modules": []},
        {"max_steps": "10"},
        {"max_steps": True},
        {"max_steps": 10**12},
        {"bf16": "auto; id"},
        {"learning_rate": float("nan")},
        {"learning_rate": {"x": 1}},
        {"seed": -1},
        {7: 1},
        ["plugins"],
        "plugins",
    ],
)
def test_keys_for_axolotl_are_numbers_switches_and_known_words(keys: Any, volume: Path) -> None:
    with pytest.raises(InputError):
        checked_spec({**SPEC, "axolotl": keys}, volume)


def test_every_allowed_key_is_one_of_axolotls() -> None:
    from multitask.resources import resource_dir

    path = resource_dir("configs").parent / "multitask" / "runners" / "axolotl_schema.json"
    known = path.read_text()
    assert [key for key in AXOLOTL_KEYS if f'"{key}"' not in known] == []


def test_an_error_names_the_key(volume: Path) -> None:
    with pytest.raises(InputError, match=r"'axolotl\.max_steps'"):
        read_input(json.loads(json.dumps({"spec": {**SPEC, "axolotl": {"max_steps": -1}}})), volume)
