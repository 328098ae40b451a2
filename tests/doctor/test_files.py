"""A run's own files, whole and broken."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from multitask.build import build_config
from multitask.checkpoints import Inputs
from multitask.checks import Check
from multitask.doctor.files import file_checks
from multitask.doctor.packages import find_plugin, import_checks, plugin_check
from multitask.doctor.subject import open_subject
from multitask.run import Run
from multitask.spec import Spec
from tests.checkpoints.conftest import mark, write_plain
from tests.doctor.conftest import Doctor, MakeEnvironment, named


def checks(run: Run) -> list[Check]:
    return file_checks(open_subject(run.root))


def edit(path: Path, **changes: object) -> None:
    content = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def test_a_built_run_is_ok_as_it_is(built: Run) -> None:
    found = {check.question: check.severity for check in checks(built)}
    assert found == {
        "spec": "ok",
        "files": "ok",
        "data": "ok",
        "axolotl.yaml": "ok",
        "accelerate.yaml": "ok",
    }


def test_a_missing_file_is_named(built: Run) -> None:
    built.split("validation").unlink()
    check = named(checks(built), "files")
    assert (check.severity, check.answer) == ("problem", "missing: data/validation.jsonl")
    assert check.remedy.startswith("multitask build-config ")


def test_rows_that_were_changed_are_told_by_their_hash(built: Run) -> None:
    with built.split("train").open("a") as file:
        file.write("\n")
    check = named(checks(built), "data")
    assert check.severity == "problem"
    assert check.answer.startswith("train.jsonl: ")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"files": {"train.jsonl": 3}}'])
def test_a_broken_manifest_is_a_problem(built: Run, content: str) -> None:
    built.manifest.write_text(content)
    assert named(checks(built), "data").severity == "problem"


def test_an_edited_configuration_is_named_by_its_keys(built: Run) -> None:
    edit(built.axolotl, learning_rate=0.5, warmup_steps=7)
    check = named(checks(built), "axolotl.yaml")
    assert check.severity == "warning"
    assert "learning_rate, warmup" in check.answer


def test_a_model_inside_the_run_is_no_difference(tmp_path: Path) -> None:
    def add_model(root: Path, _prepared: object) -> None:
        (root / "base").mkdir()
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        more = {"model_type": "llama", "intermediate_size": 64, "vocab_size": 400}
        (root / "base" / "config.json").write_text(json.dumps(sizes | more))

    spec = Spec(model="base", tasks=("text_claims",), cluster="cpu", method="full", sample=True)
    run = build_config(spec, tmp_path / "run", validate=False, add_files=add_model).run
    assert named(checks(run), "axolotl.yaml").severity == "ok"


def test_a_spec_that_was_edited_after_the_build_shows_too(built: Run) -> None:
    edit(built.spec, epochs=9)
    check = named(checks(built), "axolotl.yaml")
    assert "num_epochs" in check.answer


def test_a_configuration_without_our_plugin_is_a_problem(built: Run) -> None:
    edit(built.axolotl, plugins=[])
    check = named(checks(built), "axolotl.yaml")
    assert check.severity == "problem"
    assert "without multitask's plugin" in check.answer


def test_a_configuration_that_is_no_yaml_is_a_problem(built: Run) -> None:
    built.axolotl.write_text("a: [")
    assert named(checks(built), "axolotl.yaml").severity == "problem"


def test_a_trap_in_the_configuration_is_a_problem_of_its_own(built: Run) -> None:
    edit(built.axolotl, fsdp_version=2, fsdp_config={"state_dict_type": "SHARDED_STATE_DICT"})
    found = named(checks(built), "axolotl.yaml: fsdp_config")
    assert (found.severity, "no GPU to shard over" in found.answer) == ("problem", True)


def test_processes_that_the_cluster_does_not_have_are_a_problem(built: Run) -> None:
    edit(built.accelerate, num_processes=4)
    check = named(checks(built), "accelerate.yaml")
    assert check.severity == "problem"
    assert check.answer == "4 process(es) on 1 machine(s), and cpu has 1 on 1"


def test_a_deepspeed_file_that_is_named_must_be_there(built: Run) -> None:
    edit(built.axolotl, deepspeed="deepspeed.json")
    assert named(checks(built), "files").answer == "missing: deepspeed.json"


def test_a_run_of_data_alone_says_what_builds_it(built: Run) -> None:
    for path in (built.axolotl, built.accelerate):
        path.unlink()
    found = checks(built)
    assert named(found, "files").answer == "missing: axolotl.yaml, accelerate.yaml"
    assert named(found, "data").severity == "ok"


def test_what_changed_since_a_checkpoint_is_told(built: Run) -> None:
    pytest.importorskip("torch")
    mark(write_plain(built.model / "checkpoint-3"), Inputs.of(built, 1))
    assert named(checks(built), "checkpoint-3").severity == "ok"
    edit(built.axolotl, learning_rate=0.5)
    check = named(checks(built), "checkpoint-3")
    assert check.severity == "warning"
    assert "then, 0.5 now" in check.answer


def test_the_plugin_is_found_from_the_run_s_folder(built: Run) -> None:
    check = plugin_check(find_plugin(open_subject(built.root)))
    assert check.severity == "ok"


def test_another_multitask_in_a_training_s_way_is_a_problem(
    built: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "multitask"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "plugin.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    check = plugin_check(find_plugin(open_subject(built.root)))
    assert check.severity == "problem"
    assert f"a training would take {other}" in check.answer


def test_a_relative_python_path_is_lost_where_a_training_starts(
    doctor: Doctor, built: Run, tmp_path: Path, environment_without: MakeEnvironment
) -> None:
    python, _ = environment_without()
    for name in ("multitask", "templates", "configs"):
        (tmp_path / name).symlink_to(Path(__file__).parents[2] / name)
    check = doctor(built.root, python=python, PYTHONPATH=".").check("plugin")
    assert check.severity == "problem"
    assert "finds no multitask" in check.answer


@pytest.mark.train
def test_a_plugin_of_the_user_s_that_cannot_be_imported_is_a_problem(built: Run) -> None:
    pytest.importorskip("axolotl")
    edit(built.axolotl, plugins=["nowhere.Plugin"])
    check = named(import_checks(open_subject(built.root))(), "load plugins")
    assert check.severity == "problem"
    assert check.answer == "ModuleNotFoundError: No module named 'nowhere'"


@pytest.mark.train
def test_what_is_installed_can_be_imported(built: Run) -> None:
    pytest.importorskip("axolotl")
    found = import_checks(open_subject(built.root))()
    assert named(found, "load plugins").severity == "ok"
    assert named(found, "import torch").answer.startswith(version("torch"))
