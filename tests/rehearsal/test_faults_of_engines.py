"""What a rehearsal finds when the remedy of an engine's fault is taken out, fault by fault.

Two or four ranks are forked from one process that has imported Axolotl; each row is one training of
two steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.build import build_config
from multitask.cluster import load_cluster
from multitask.rehearsal.adapt import Sizes
from multitask.rehearsal.after import check_model, check_probe, probe_file
from multitask.rehearsal.checklist import CheckFailedError, Checklist
from multitask.rehearsal.forkserver import Forkserver
from multitask.rehearsal.layout import follow_layout
from multitask.rehearsal.machines import Machines
from multitask.rehearsal.network import loopback
from multitask.rehearsal.stage import stage_rehearsal
from multitask.run import Run
from multitask.runners.validate import axolotl_installed
from multitask.spec import Spec, load_spec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.train,
    pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed"),
]
_SPEC = {
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "tasks": ["banking77"],
    "sample": True,
    "leakage": {"near_duplicates": False},
    "evaluation": {"rows_per_task": 0},
}
_KERNELS = ("lora_qkv_kernel", "lora_o_kernel")
Rehearse = Callable[..., dict[str, tuple[bool, str]]]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    with Forkserver(tmp_path_factory.mktemp("forks") / "log") as started:
        started.wait()
        yield started


@pytest.fixture
def rehearse(tmp_path: Path, forks: Forkserver) -> Rehearse:
    """Train a run in small, with keys of its configuration changed; the checks that followed."""

    def go(
        change: Callable[[dict[str, Any]], None] = lambda _config: None,
        *,
        nodes: int = 1,
        **spec: Any,
    ) -> dict[str, tuple[bool, str]]:
        run = build_config(Spec.model_validate(_SPEC | spec), tmp_path / "run", validate=False).run
        small = Run(tmp_path / "small")
        stage_rehearsal(run, small.root, Sizes(steps=2, save_steps=2))
        cluster = load_cluster(load_spec(run.spec).cluster)
        follow_layout(small, cluster, nodes=nodes, procs=2)
        config = yaml.safe_load(small.axolotl.read_text())
        change(config)
        small.axolotl.write_text(yaml.safe_dump(config))
        machines = Machines(
            small.root,
            loopback(nodes),
            nodes=nodes,
            procs=2,
            forkserver=forks.address,
            probe=probe_file(small),
        )
        checks = Checklist()
        with machines:
            machines.run()
        check_probe(checks, small, ranks=2 * nodes)
        with contextlib.suppress(CheckFailedError):
            check_model(checks, small, config)
        for check in checks.checks:
            print(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.detail}")  # noqa: T201
        return {check.name: (bool(check.passed), check.detail) for check in checks.checks}

    return go


def _failed(found: dict[str, tuple[bool, str]]) -> list[str]:
    return [name for name, (passed, _) in found.items() if not passed]


_RECOMPUTE = "recomputing layers does not change gradients"
_FUSED = "LoRA kernels do not change gradients"
_COPIES = "copies of the model are equal after training"
_HELD = "what learns is held as the estimate says"


def test_a_sound_adapter_passes(rehearse: Rehearse) -> None:
    found = rehearse(sharding="fsdp", activation_checkpointing=True)
    assert _failed(found) == []
    assert "lora_B 0" in found[_RECOMPUTE][1]
    assert "lora_B" in found[_FUSED][1]
    assert "also loaded again" in found["final save"][1]


def test_checkpointing_of_fsdp_s_own_is_found(rehearse: Rehearse) -> None:
    """accelerate/utils/fsdp_utils.py:615 and axolotl/monkeypatch/accelerate/fsdp2.py:485: dropout
    differs in the backward pass, and the adapter has names that nothing loads."""

    def change(config: dict[str, Any]) -> None:
        del config["gradient_checkpointing"], config["gradient_checkpointing_kwargs"]
        config["fsdp_config"]["activation_checkpointing"] = True

    found = rehearse(change, sharding="fsdp", activation_checkpointing=True)
    assert _failed(found) == [_RECOMPUTE, "final save"]
    assert "_checkpoint_wrapped_module" in found["final save"][1]


def test_kernels_on_sharded_dora_are_found(rehearse: Rehearse) -> None:
    """axolotl/kernels/lora.py:110-113: magnitudes' gradients are not reduced, copies diverge."""

    def change(config: dict[str, Any]) -> None:
        config |= dict.fromkeys(_KERNELS, True)

    found = rehearse(change, nodes=2, method="dora", sharding="hsdp")
    assert _failed(found) == [_FUSED, _COPIES]
    assert "lora_magnitude_vector" in found[_FUSED][1]


def test_sharded_dora_is_sound_without_them(rehearse: Rehearse) -> None:
    found = rehearse(nodes=2, method="dora", sharding="hsdp")
    assert _failed(found) == []
    assert found[_COPIES][1] != "0 parts that several ranks hold"


@pytest.mark.parametrize("sharding", ["fsdp", "ddp"])
def test_full_fine_tuning_is_held_in_float32(rehearse: Rehearse, sharding: str) -> None:
    found = rehearse(method="full", model="meta-llama/Llama-3.2-1B-Instruct", sharding=sharding)
    assert _failed(found) == []
    assert found[_HELD][1] == "weights 4, gradients 4, optimizer 8 bytes per parameter"


def test_bfloat16_weights_are_found(rehearse: Rehearse) -> None:
    """accelerate/utils/fsdp_utils.py, the end of fsdp2_prepare_model, raises nothing."""

    def change(config: dict[str, Any]) -> None:
        config["plugins"].append("tests.support.bfloat16_plugin.BFloat16Plugin")

    found = rehearse(change, method="full", sharding="fsdp")
    assert _failed(found) == [_HELD]
    assert "weights: 2 bytes per parameter, 4 in the estimate" in found[_HELD][1]
