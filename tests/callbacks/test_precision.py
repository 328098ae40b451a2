"""What learns is held in float32 and computes in bfloat16, whatever shares it among processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_ranks

torch = pytest.importorskip("torch")
pytest.importorskip("axolotl")
pytestmark = pytest.mark.train

_FSDP = {"cpu_ram_efficient_loading": True, "state_dict_type": "SHARDED_STATE_DICT"}


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(torch.bfloat16)


def _cfg(**changes: Any) -> Any:
    from axolotl.utils.dict import DictDefault

    return DictDefault({"bf16": True, "fsdp_version": 2} | changes)


def _one_step(held: bool, sharded: bool) -> dict[str, set[str]]:
    """A step with accelerate's and Axolotl's own preparation; the data types that were seen."""
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin
    from axolotl.monkeypatch.accelerate.fsdp2 import patch_accelerate_fsdp2

    from multitask.rehearsal import shims
    from multitask.runners.axolotl.trainer import hold_weights

    model, options = _model(), {}
    if sharded:
        import os

        os.environ["ACCELERATE_USE_FSDP"] = "true"
        shims.mesh_on_cpu()
        shims.fsdp_on_cpu()
        patch_accelerate_fsdp2()
        options["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
            **_FSDP,
        )
    if held:
        hold_weights(_cfg(fsdp_config=_FSDP if sharded else None), model)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    projection = model.get_submodule("model.layers.0.mlp.gate_proj")
    model, optimizer = accelerator.prepare(model, optimizer)
    computed: set[str] = set()
    projection.register_forward_hook(lambda _m, _i, output: computed.add(str(output.dtype)))
    ids = torch.arange(24).reshape(2, 12) % 64
    accelerator.backward(model(input_ids=ids, labels=ids).loss)
    gradients = {str(p.grad.dtype) for p in model.parameters()}
    optimizer.step()
    states = {
        str(value.dtype)
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    }
    weights = {str(p.dtype) for p in model.parameters()}
    return {"computed": computed, "gradients": gradients, "states": states, "weights": weights}


@pytest.mark.parametrize(("ranks", "sharded"), [(1, False), (2, True)], ids=["DDP", "FSDP2"])
@pytest.mark.parametrize("held", [True, False], ids=["held", "as Axolotl leaves it"])
def test_weights_gradients_and_adam_are_float32(
    tmp_path: Path, ranks: int, sharded: bool, held: bool
) -> None:
    """Without our part all of them are bfloat16: where that changes, it is not needed any more.

    accelerate/utils/fsdp_utils.py, the end of fsdp2_prepare_model: ``param = param.to(float32)``
    changes nothing.
    """
    # Once, before the ranks are forked.
    from transformers import LlamaForCausalLM  # noqa: F401

    wanted = "torch.float32" if held else "torch.bfloat16"
    for seen in run_ranks(ranks, _one_step, held, sharded, folder=tmp_path):
        assert seen["computed"] == {"torch.bfloat16"}
        assert [seen[k] for k in ("weights", "gradients", "states")] == [{wanted}] * 3


def test_small_updates_are_not_lost() -> None:
    """At a learning rate of 1e-5 most weights of an ordinary size never move in bfloat16."""
    moved = {}
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        weight = torch.nn.Parameter((0.02 * torch.randn(10_000)).to(torch.bfloat16).to(dtype))
        before = weight.detach().clone()
        optimizer = torch.optim.AdamW([weight], lr=1e-5, weight_decay=0.0)
        for _ in range(100):
            weight.grad = torch.randn(10_000).sign().abs().to(dtype)
            optimizer.step()
        moved[dtype] = (weight != before).float().mean().item()
    assert moved[torch.bfloat16] < 0.5
    assert moved[torch.float32] == 1.0


def test_the_final_model_is_as_it_was_loaded() -> None:
    from multitask.callbacks.trainer import restore
    from multitask.runners.axolotl.trainer import hold_weights

    model = _model()
    loaded = hold_weights(_cfg(), model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (
        model.get_input_embeddings().weight
        is dict(model.named_parameters())["model.embed_tokens.weight"]
    )
    restore(model, loaded)
    restore(model, loaded)  # Axolotl calls the hook twice
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "changes",
    [{"deepspeed": "deepspeed.json"}, {"bf16": False}],
    ids=["DeepSpeed has its own", "all is float32"],
)
def test_others_are_left_alone(changes: dict[str, Any]) -> None:
    from multitask.runners.axolotl.trainer import hold_weights

    model = _model()
    assert hold_weights(_cfg(**changes), model) == {}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_what_is_frozen_stays_small() -> None:
    from multitask.runners.axolotl.trainer import hold_weights

    model = _model()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert list(hold_weights(_cfg(), model)) == ["lm_head.weight"]


def test_memory_that_nobody_wrote_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that FSDP2 hands their weights hold empty tensors, which must stay without pages."""
    from multitask.runners.axolotl.trainer import hold_weights

    monkeypatch.setenv("LOCAL_RANK", "1")
    model = _model().to("meta")
    hold_weights(_cfg(fsdp_config=_FSDP), model)
    assert {(p.dtype, p.is_meta) for p in model.parameters()} == {(torch.float32, True)}
