"""Axolotl's configuration: what the spec says is in it, and Axolotl accepts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.build import build_config
from multitask.cluster import load_cluster
from multitask.errors import InputError
from multitask.models import model_info
from multitask.planning.decide import decide
from multitask.runners.axolotl.file import axolotl_file
from multitask.runners.axolotl.validate import axolotl_installed
from multitask.runners.launch import accelerate_yaml
from multitask.spec import Spec

needs_axolotl = pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed")


_LLAMA = model_info("meta-llama/Llama-3.1-8B-Instruct", Path("/nowhere"))


def _config(**changes: object) -> dict[str, object]:
    spec = Spec.model_validate({"model": "a/b", "tasks": ["banking77"]} | changes)
    return axolotl_file(decide(spec, _LLAMA)).config


def test_the_cluster_gets_sharded_fsdp2() -> None:
    config = _config()
    assert config["fsdp_version"] == 2
    assert config["fsdp_config"]["state_dict_type"] == "SHARDED_STATE_DICT"
    assert config["fsdp_config"]["transformer_layer_cls_to_wrap"] == "LlamaDecoderLayer"
    assert "activation_checkpointing" not in config["fsdp_config"]


def test_one_gpu_and_cpu_get_no_fsdp() -> None:
    assert "fsdp_config" not in _config(cluster="1x1-a100-80gb")
    assert "fsdp_config" not in _config(cluster="cpu")


def test_lora_on_a_cpu_does_without_the_fused_kernels() -> None:
    """Axolotl turns them on by itself, and they run on CUDA alone."""
    config = _config(cluster="cpu", method="lora")
    assert [config[f"lora_{k}_kernel"] for k in ("mlp", "qkv", "o", "embedding")] == [False] * 4
    assert "lora_mlp_kernel" not in _config(method="lora")


def test_passed_through_keys_win() -> None:
    assert _config(axolotl={"warmup_ratio": 0.2})["warmup_ratio"] == 0.2


def test_wandb_is_passed_on_and_the_hub_is_left_to_push() -> None:
    config = _config(tracking={"wandb": {"project": "p"}}, hub={"repo": "me/it"}, name="n")
    assert (config["wandb_project"], config["wandb_name"]) == ("p", "n")
    # Axolotl would push without a card, in public, and over what is there.
    assert not [key for key in config if key.startswith("hub_")]


def test_whole_save_steps_are_integers() -> None:
    assert _config(checkpoint={"save_steps": 200})["save_steps"] == 200
    assert isinstance(_config(checkpoint={"save_steps": 200})["save_steps"], int)
    assert _config(checkpoint={"save_steps": 0.25})["save_steps"] == 0.25


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "LlamaDecoderLayer"),
        ("Qwen/Qwen2.5-7B", "Qwen2DecoderLayer"),
        ("nobody/knows", None),
    ],
)
def test_the_layer_to_wrap_is_known_by_hub_id(model: str, layer: str | None) -> None:
    assert model_info(model, Path("/nowhere")).layer_class == layer


def test_the_layer_to_wrap_is_read_from_a_local_model(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "mistral"}')
    assert model_info("m", tmp_path).layer_class == "MistralDecoderLayer"


def test_accelerate_reads_its_file(tmp_path: Path) -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    for cluster, processes in (("3x4-a100-80gb", 12), ("cpu", 1)):
        path = tmp_path / f"{cluster}.yaml"
        path.write_text(accelerate_yaml(load_cluster(cluster)))
        assert config_args.load_config_from_file(str(path)).num_processes == processes


@needs_axolotl
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_axolotl_accepts_the_cluster_s_configuration(tmp_path: Path, method: str) -> None:
    """With the target's hardware, on this machine without it."""
    spec = Spec(
        model="meta-llama/Llama-3.1-8B-Instruct", tasks=("banking77",), sample=True, method=method
    )
    built = build_config(spec, tmp_path / "run")
    assert built.validated


@needs_axolotl
def test_a_value_that_axolotl_refuses_leaves_no_run(tmp_path: Path, sample_spec: Spec) -> None:
    """Two keys that are each right, so that only Axolotl's own validator sees it."""
    spec = sample_spec.model_copy(update={"axolotl": {"selective_checkpointing": True}})
    with pytest.raises(InputError, match="Axolotl refuses the configuration"):
        build_config(spec, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_key_ends_it_before_the_data(tmp_path: Path, sample_spec: Spec) -> None:
    told: list[str] = []
    spec = sample_spec.model_copy(update={"axolotl": {"wieght_decay": 0.1}})
    with pytest.raises(InputError, match="did you mean 'weight_decay'"):
        build_config(spec, tmp_path / "run", validate=False, report=told.append)
    assert told == []


def test_a_doubtful_key_is_a_warning(tmp_path: Path, sample_spec: Spec) -> None:
    told: list[str] = []
    spec = sample_spec.model_copy(update={"axolotl": {"gc_steps": 10}})
    build_config(spec, tmp_path / "run", validate=False, report=told.append)
    assert [line for line in told if line.startswith("warning: gc_steps")]
