"""What a rehearsal catches before a process is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.build import build_config
from multitask.checks import Check, Checklist
from multitask.cluster import load_cluster
from multitask.rehearsal.checks import check_files
from multitask.run import Run
from multitask.spec import Spec, load_spec
from multitask.toy import train_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = Spec.model_validate(
        {
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "tasks": ["banking77", "commonsense_qa"],
            "sample": True,
            "leakage": {"near_duplicates": False},
        }
    )
    return build_config(spec, tmp_path_factory.mktemp("built") / "run", validate=False).run


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["which card do I need", "where does a fish live"] * 20, vocabulary=400)


@pytest.fixture
def checked(run: Run, tokenizer: Any) -> Callable[..., dict[str, Check]]:
    """Check the run's files with keys of axolotl.yaml changed."""
    cluster = load_cluster(load_spec(run.spec).cluster)

    def check(change: dict[str, Any] | None = None, *, by: Any = None) -> dict[str, Check]:
        config = yaml.safe_load(run.axolotl.read_text()) | (change or {})
        checks = Checklist()
        check_files(checks, run, config, cluster, by or tokenizer)
        return {check.question: check for check in checks.checks}

    return check


def _failed(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if not check.passed]


def test_a_run_as_it_was_built_passes(checked: Callable[..., dict[str, Check]]) -> None:
    assert _failed(checked()) == []


def test_a_full_state_dict_with_lora_is_caught(checked: Callable[..., dict[str, Check]]) -> None:
    fsdp = {"state_dict_type": "FULL_STATE_DICT", "offload_params": False}
    checks = checked({"fsdp_config": fsdp})
    assert _failed(checks) == ["configuration"]
    assert "state_dict_type" in checks["configuration"].answer


def test_checkpoints_that_cannot_be_resumed_are_caught(
    checked: Callable[..., dict[str, Check]],
) -> None:
    checks = checked({"save_only_model": True})
    assert _failed(checks) == ["configuration"]
    assert "save_only_model" in checks["configuration"].answer


def test_a_plugin_that_cannot_be_imported_is_caught(
    checked: Callable[..., dict[str, Check]],
) -> None:
    checks = checked({"plugins": ["multitask.plugin.MultitaskPlugin", "gone.away.Plugin"]})
    assert "plugins can be imported" in _failed(checks)
    assert "gone.away.Plugin" in checks["plugins can be imported"].answer
    assert "plugins can be imported" in _failed(checked({"plugins": []}))


def test_an_output_directory_of_each_node_s_own_is_caught(
    checked: Callable[..., dict[str, Check]],
) -> None:
    name = "output directory is shared by all nodes"
    checks = checked({"output_dir": "/tmp/model"})
    assert name in _failed(checks)
    assert "another folder on each of 3 nodes" in checks[name].answer


def test_a_batch_that_drops_rows_is_caught(
    checked: Callable[..., dict[str, Check]], run: Run
) -> None:
    checks = checked({"sample_packing": False, "gradient_accumulation_steps": 50})
    assert "not one step is whole" in checks["batch arithmetic"].answer
    rows = len(run.split("train").read_text().splitlines())
    most = max(range(1, rows // 12 + 1), key=lambda steps: rows % (12 * steps))
    checks = checked({"sample_packing": False, "gradient_accumulation_steps": most})
    assert "out of every epoch" in checks["batch arithmetic"].answer


def test_a_template_without_the_assistant_s_turn_is_caught(
    checked: Callable[..., dict[str, Check]], tokenizer: Any
) -> None:
    from copy import deepcopy

    silent = deepcopy(tokenizer)
    silent.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}<|user|>"
        "{{ message['content'] }}{% endif %}{% endfor %}"
    )
    name = "chat template has the assistant's turn"
    assert name in _failed(checked(by=silent))


def test_answers_that_sequence_len_cuts_off_are_caught(
    checked: Callable[..., dict[str, Check]],
) -> None:
    checks = checked({"sequence_len": 16})
    detail = checks["answers fit into sequence_len"].answer
    assert "every row of" in detail
    assert "commonsense_qa" in detail


def test_a_script_that_does_not_parse_is_caught(
    checked: Callable[..., dict[str, Check]], run: Run
) -> None:
    script = run.launch / "broken.sh"
    script.write_text("if true; then\n")
    try:
        assert "launch scripts parse" in _failed(checked())
    finally:
        script.unlink()


def test_only_files_are_looked_at(checked: Callable[..., dict[str, Check]], run: Run) -> None:
    before = sorted(Path(run.root).rglob("*"))
    checked()
    assert sorted(Path(run.root).rglob("*")) == before
