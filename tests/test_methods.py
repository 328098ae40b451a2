"""Every method that runs without a GPU trains for real, and what it leaves behind can be scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from multitask.runners.axolotl.validate import axolotl_installed
from multitask.toy import write_toy_model
from tests.warm import multitask

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed"),
]
_METHODS = [
    pytest.param(name, marks=() if name == "adalora" else pytest.mark.slow)
    for name in ("adalora", "full", "lora", "dora", "rslora", "loraplus", "pissa")
]


def _multitask(*arguments: object, cwd: Path) -> None:
    step = multitask(*arguments, cwd=cwd)
    assert step.returncode == 0, step.stderr


@pytest.mark.parametrize("method", _METHODS)
def test_a_method_trains_and_is_scored(method: str, tmp_path: Path) -> None:
    write_toy_model(tmp_path / "toy", ["classify this claim", "water damage in the kitchen"] * 50)
    content = {
        "model": "toy",
        "tasks": ["text_claims"],
        "cluster": "cpu",
        "method": method,
        "epochs": 2,
        "sequence_len": 256,
        "sample": True,
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
    _multitask("build-config", "spec.yaml", "--out", "run", "--no-validate", cwd=tmp_path)
    _multitask("train", "run", cwd=tmp_path)
    _multitask("evaluate", "run", "--limit", "5", cwd=tmp_path)
    model = tmp_path / "run" / "model"
    results = json.loads((tmp_path / "run/evaluation/trained/results.json").read_text())
    assert results["tasks"]["text_claims"]["n"] == 5
    if method == "full":
        assert (model / "model.safetensors").is_file()
        return
    config = json.loads((model / "adapter_config.json").read_text())
    assert config["peft_type"] == ("ADALORA" if method == "adalora" else "LORA")
    if method == "adalora":
        ranks = [sum(kept) for kept in config["rank_pattern"].values()]
        assert sum(ranks) == config["target_r"] * len(ranks)  # the budget at the end
        assert config["total_step"] < 1000
