"""DeepSpeed's file: what is in it, and that transformers and DeepSpeed accept it."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from multitask.errors import InputError
from multitask.runners.deepspeed import (
    STAGES,
    _ask,
    check_deepspeed,
    deepspeed_config,
    deepspeed_installed,
)

_VALUES: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "max_grad_norm": 1.0,
    "bf16": True,
    "learning_rate": "2e-4",
}


def _changed(stage: int, zero: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    config = deepcopy(deepspeed_config(stage)) | top
    config["zero_optimization"] |= zero or {}
    return config


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """What DeepSpeed says of many files, from one process: it takes seconds to import."""
    if not deepspeed_installed():
        pytest.skip("no DeepSpeed")
    files = {
        f"{stage}{'-offload' if offload else ''}": deepspeed_config(stage, offload=offload)
        for stage in STAGES
        for offload in (False, True)
    }
    files |= {
        "unknown-zero": _changed(3, {"stge": 1}),
        "unknown-top": _changed(2) | {"zero_optimisation": {}},
        "wrong-type": _changed(2, {"stage": "x"}),
        "other-batch": _changed(3, train_batch_size=100),
        "left-auto": _changed(1, wall_clock_breakdown="auto"),
        "fp16": _changed(1, bf16={"enabled": False}),
    }
    folder = tmp_path_factory.mktemp("deepspeed")
    questions = []
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
        names = ("fp16", "weight_decay")
        values = dict.fromkeys(names) | _VALUES | {"world_size": 12}
        questions.append(values | {"path": str(folder / f"{name}.json")})
    (folder / "no-json.json").write_text("{not json")
    questions.append(questions[0] | {"path": str(folder / "no-json.json")})
    return dict(zip([*files, "no-json"], _ask(questions), strict=True))


@pytest.mark.parametrize("name", ["1", "1-offload", "2", "2-offload", "3", "3-offload"])
def test_deepspeed_accepts_each_stage(answers: dict[str, Any], name: str) -> None:
    assert answers[name] == []


@pytest.mark.parametrize(
    ("name", "where", "text"),
    [
        ("unknown-zero", "zero_optimization.stge", "Extra inputs"),
        ("unknown-top", "zero_optimisation", "did you mean 'zero_optimization'?"),
        ("wrong-type", "zero_optimization.stage", "Input should be"),
        ("other-batch", "", "train_batch_size=100 vs hf train_batch_size (calculated)=192"),
        ("left-auto", "wall_clock_breakdown", "nothing fills this 'auto'"),
        ("fp16", "", "bf16.enabled=False"),
    ],
)
def test_deepspeed_s_refusal_is_named(
    answers: dict[str, Any], name: str, where: str, text: str
) -> None:
    (problem,) = answers[name]
    assert problem["where"] == where
    assert text in problem["what"] + problem["fix"]


def test_a_finding_names_the_file(
    answers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's answer to it comes from the process that was asked above."""
    monkeypatch.setattr("multitask.runners.deepspeed._ask", lambda _: [answers["no-json"]])
    (finding,) = check_deepspeed(tmp_path / "deepspeed.json", _VALUES, world_size=12)
    assert finding.place == "deepspeed.json"
    assert not finding.passed


def test_only_stage_3_moves_parameters() -> None:
    for stage in STAGES:
        zero = deepspeed_config(stage, offload=True)["zero_optimization"]
        assert zero["offload_optimizer"]["device"] == "cpu"
        assert ("offload_param" in zero) == (stage == 3)
        plain = deepspeed_config(stage)["zero_optimization"]
        assert not [key for key in plain if key.startswith("offload")]


def test_stage_3_saves_whole_weights() -> None:
    """Else the trained model's files are empty."""
    zero = deepspeed_config(3)["zero_optimization"]
    assert zero["stage3_gather_16bit_weights_on_model_save"] is True


def test_what_the_trainer_knows_is_left_to_it() -> None:
    for stage in STAGES:
        config = deepspeed_config(stage)
        assert config["train_batch_size"] == config["gradient_clipping"] == "auto"
        assert config["bf16"] == {"enabled": "auto"}
        assert not {"optimizer", "scheduler"} & set(config)  # Axolotl makes both


def test_there_are_three_stages() -> None:
    with pytest.raises(InputError, match="no ZeRO stage 4"):
        deepspeed_config(4)
