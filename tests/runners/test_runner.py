"""The seam between a run and its engine: Axolotl behind it, and a second one beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import multitask.runners
from multitask.build import build_config
from multitask.cluster import load_cluster, load_method
from multitask.errors import InputError
from multitask.models import (
    ModelInfo,
    dora_parameters,
    lora_parameters,
    model_info,
    shape_of,
)
from multitask.planning.decide import decide
from multitask.resources import config_names
from multitask.run import Run
from multitask.runners import runner_for, runner_of, runners
from multitask.runners.axolotl.method import method_keys, training_from
from multitask.spec import Spec
from multitask.training.command import launch_command, torchrun_command
from multitask.training.nodes import Nodes

# What a second engine is: one module, and nothing of ours knows of it.
_SECOND = """
from contextlib import contextmanager
from multitask.errors import InputError
from multitask.files import read_mapping
from multitask.runners.deepspeed import deepspeed_files
from multitask.runners.launch import accelerate_yaml

class Second:
    name, file, module = "Second", "second.yaml", "second.train"
    packages, variables = ("transformers",), {"SECOND": "1"}
    def trains(self, model): return model.encoder_decoder
    def refuse(self, setup):
        if setup.method.bits == 4:
            raise InputError("the second engine has no 4 bits", where="key 'method'")
    def config(self, setup):
        return {"model": setup.spec.model, "rank": setup.method.rank}
    def replaced(self, setup): return ()
    def files(self, setup):
        return {self.file: f"rank: {setup.method.rank}\\n",
                "accelerate.yaml": accelerate_yaml(setup.cluster), **deepspeed_files(setup)}
    def check(self, setup, config=None): return []
    def check_template(self, config, tokenizer, root): return []
    def installed(self): return True
    @contextmanager
    def validator(self): yield lambda run, setup: read_mapping(run.engine_file)
    def require(self, run): return read_mapping(run.engine_file)
    def resume(self, checkpoint): return ["--from", str(checkpoint)]

RUNNER = Second()
"""
_T5 = {
    "model_type": "t5", "d_model": 64, "d_ff": 128, "num_heads": 4, "d_kv": 16, "num_layers": 2,
    "vocab_size": 600, "architectures": ["T5ForConditionalGeneration"],
}  # fmt: skip


@pytest.fixture
def t5(tmp_path: Path) -> Path:
    """A folder with the configuration of a small T5."""
    folder = tmp_path / "t5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_T5))
    return folder


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a second engine beside Axolotl's."""
    folder = tmp_path / "engines" / "second_engine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "runner.py").write_text(_SECOND)
    path = [*multitask.runners.__path__, str(folder.parent)]
    monkeypatch.setattr(multitask.runners, "__path__", path)
    runners.cache_clear()
    yield
    runners.cache_clear()


def _spec(model: Path, **changes: object) -> Spec:
    given = {"model": str(model), "tasks": ["banking77"], "sample": True, "sharding": "zero2"}
    return Spec.model_validate(given | changes)


def test_a_model_has_the_engine_of_its_architecture(t5: Path) -> None:
    assert runner_for(ModelInfo()).name == "Axolotl"
    with pytest.raises(InputError, match="no engine of this installation trains 't5' models"):
        runner_for(model_info(str(t5), Path()))


@pytest.mark.usefixtures("second")
def test_a_second_engine_is_a_folder(t5: Path, tmp_path: Path) -> None:
    built = build_config(_spec(t5), tmp_path / "run")
    run = built.run
    assert built.validated
    assert runner_of(run).name == "Second"
    assert yaml.safe_load(run.engine_file.read_text()) == {"rank": 16}
    assert run.engine_file.stat().st_mode & 0o77 == 0
    assert run.deepspeed.is_file()
    assert not (run.root / "axolotl.yaml").exists()
    assert "$candidate/second.yaml" in (run.launch / "slurm.sh").read_text()
    assert "SECOND=1" in (run.launch / "dstack.yml").read_text()
    cluster = load_cluster("3x4-a100-80gb")
    file = str((run.root / "second.yaml").resolve())
    place = Nodes("by hand", rank=0, master="a")
    assert launch_command(run, cluster, place, resume=Path("/c"))[-5:] == [
        "-m", "second.train", file, "--from", "/c"
    ]  # fmt: skip
    assert torchrun_command(run, cluster, place)[-3:] == ["-m", "second.train", file]


@pytest.mark.usefixtures("second")
def test_an_engine_refuses_a_setup_with_its_reason(t5: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no 4 bits"):
        build_config(_spec(t5, method="qlora", sharding="auto"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_axolotl_refuses_what_it_does_not_train() -> None:
    llama = model_info("meta-llama/Llama-3.1-8B-Instruct", Path("/nowhere"))
    setup = decide(Spec(model="a/b", tasks=("banking77",)), llama)
    method = load_method("lora").model_copy(update={"peft": "ia3"})
    object.__setattr__(setup, "method", method)
    with pytest.raises(InputError, match="Axolotl does not train 'ia3'"):
        runner_for(llama).refuse(setup)


def test_a_run_without_a_file_is_that_of_the_first_engine(tmp_path: Path) -> None:
    assert Run(tmp_path).engine_file == tmp_path / "axolotl.yaml"


@pytest.mark.parametrize("name", config_names("methods"))
def test_a_method_is_read_back_from_axolotls_keys(name: str) -> None:
    """The estimate of a method and that of the keys it is written in are one."""
    llama = model_info("meta-llama/Llama-3.1-8B-Instruct", Path("/nowhere"))
    setup = decide(Spec(model="a/b", tasks=("banking77",), method=name), llama, refuse=False)
    assert llama.shape is not None
    assert setup.estimate is not None
    found = training_from(llama.shape, method_keys(load_method(name)))
    assert found == setup.estimate.plan.training


def test_a_configuration_says_what_it_trains() -> None:
    shape = shape_of(_T5)
    dora = {"adapter": "lora", "lora_r": 8, "peft_use_dora": True, "lora_target_modules": ["q"]}
    assert training_from(shape, dora).trainable == dora_parameters(shape.targets(("q",)), 8)
    qlora = training_from(shape, {"adapter": "qlora", "load_in_4bit": True, "lora_r": 8})
    assert (qlora.trainable, qlora.base_bits) == (lora_parameters(shape.linears, 8), 4)
    assert training_from(shape, {"bf16": False}).base_bits == 32
    with pytest.raises(InputError, match="'ia3'"):
        training_from(shape, {"adapter": "ia3"})
