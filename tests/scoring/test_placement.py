"""A model larger than a GPU is divided over several; the oracle of a division is accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multitask.errors import InputError
from multitask.evaluation.distributed import _take_gpu
from multitask.models import model_info
from multitask.scoring.encode import Encoder
from multitask.scoring.model import GB, load_model, place
from tests.scoring.models import scorer

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")

_70B, _8B = "meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"
_A100 = 78 * GB


def _config(model: str) -> Any:
    from transformers import AutoConfig

    known = model_info(model, Path("/nowhere")).config
    assert known is not None
    keys = dict(known)
    return AutoConfig.for_model(keys.pop("model_type"), **keys)


def test_a_model_that_a_gpu_holds_goes_there_whole() -> None:
    devices, words = place(_config(_8B), dtype="bfloat16", memory={0: _A100, 1: _A100, "cpu": 1})
    assert devices is None
    assert "16.1 GB of weights in bfloat16" in words


def test_a_larger_one_is_divided_by_layers_with_room_on_each_gpu() -> None:
    from transformers import AutoModelForCausalLM

    config = _config(_70B)
    memory = dict.fromkeys(range(4), _A100) | {"cpu": 200 * GB}
    devices, words = place(config, dtype="bfloat16", memory=memory)
    assert "141 GB of weights in bfloat16" in words
    assert "divided over 2 of 4 GPUs" in words
    assert devices is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    accelerate.utils.modeling.check_device_map(model, devices)
    sizes = accelerate.utils.compute_module_sizes(model, dtype=torch.bfloat16)
    used = dict.fromkeys(memory, 0.0)
    for name, device in devices.items():
        assert "layers" not in name or name.count(".") <= 2  # no layer is split
        used[device] += sizes[name]
    assert used["cpu"] == 0
    assert all(used[i] <= _A100 - 2 * GB for i in range(4))


def test_what_the_gpus_do_not_hold_rests_in_main_memory_and_that_is_said() -> None:
    devices, words = place(_config(_70B), dtype="bfloat16", memory={0: _A100, "cpu": 200 * GB})
    assert devices is not None
    assert set(devices.values()) == {0, "cpu"}
    assert "which is slow" in words


def test_what_nothing_holds_is_refused_with_what_would() -> None:
    with pytest.raises(InputError, match="does not fit: 141 GB") as error:
        place(_config(_70B), dtype="bfloat16", memory={0: _A100, "cpu": 10 * GB})
    assert "--quantisation" in str(error.value)


def test_processes_that_cannot_each_hold_a_copy_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(InputError, match="for each process") as error:
        place(_config(_70B), dtype="bfloat16", memory={0: _A100, "cpu": 10 * GB})
    assert "--processes 2" in str(error.value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(InputError, match="load it 8 times") as error:
        place(_config(_8B), dtype="float32", memory={"cpu": 100 * GB})
    assert "--processes 3" in str(error.value)


def test_a_quantised_model_is_counted_as_it_is_held() -> None:
    devices, words = place(
        _config(_70B), dtype="bfloat16", quantisation="4bit", memory={0: _A100, "cpu": 1}
    )
    assert devices is None
    assert "weights in 4bit" in words


@pytest.mark.parametrize("adapter", [False, True])
def test_a_divided_model_scores_as_the_whole_one(adapter: bool, toy: Path, tmp_path: Path) -> None:
    """With a layer on disk, which accelerate's hooks bring back for every use."""
    name = str(toy)
    if adapter:
        peft = pytest.importorskip("peft")
        loaded = load_model(name)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(loaded.model, config)
        adapted.peft_config["default"].base_model_name_or_path = name
        adapted.save_pretrained(tmp_path)
        loaded.tokenizer.save_pretrained(tmp_path)
        name = str(tmp_path)
    said: list[str] = []
    whole = load_model(name, report=said.append)
    size = sum(p.numel() * 4 for p in whole.model.parameters())
    divided = load_model(name, memory={"cpu": 0.8 * size, "disk": GB}, report=said.append)
    assert "disk" in divided.model.hf_device_map.values()
    assert len(said) == 2
    assert all("of weights in float32" in words for words in said)
    queries = [
        Encoder(whole.tokenizer).encode(text, ["card", "lost", "d_arrival"])
        for text in ("where is my card?", "x")
    ]
    one, other = (scorer(loaded.model).score_tokens(queries) for loaded in (whole, divided))
    np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


@pytest.mark.parametrize(
    ("rank", "processes", "visible", "mine"),
    [(0, 4, None, "0"), (3, 4, None, "3"), (1, 2, None, "2,3"), (1, 2, "4,5,6,7", "6,7")],
)
def test_processes_share_the_gpus(
    rank: int, processes: int, visible: str | None, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    environment = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    _take_gpu(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == mine
