"""What the ranks of a rehearsal find out about a step, by the engines' own functions, in tiny."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from multitask.checks import Check, Checklist
from multitask.errors import InputError
from multitask.models.adapter import load_adapter
from multitask.rehearsal import probe
from multitask.rehearsal.checks import check_probe, compare_widths, probe_file, saved_adapter
from multitask.run import Run
from tests.support.ranks import run_ranks

torch = pytest.importorskip("torch")
pytest.importorskip("axolotl")
pytestmark = pytest.mark.train

_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _base(dtype: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, tie_word_embeddings=False,
        attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype)


def _adapted(dtype: Any, *, dora: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, target_modules=_LINEAR, use_dora=dora, lora_dropout=0.1, task_type="CAUSAL_LM"
    )
    return get_peft_model(_base(dtype), config)


def _attach_kernels(model: Any) -> None:
    """Axolotl's fused kernels of attention's projections, as its patch manager attaches them."""
    from axolotl.monkeypatch import lora_kernels
    from axolotl.utils.dict import DictDefault

    keys = {"lora_qkv_kernel": True, "lora_o_kernel": True, "adapter": "lora", "base_model": "-"}
    lora_kernels.apply_lora_kernel_patches(model, DictDefault(keys))


def _patch_attention() -> None:
    """Let attention call what kernels replace; for the whole process, so in a rank alone."""
    from axolotl.monkeypatch import lora_kernels
    from axolotl.utils.dict import DictDefault
    from transformers.models.llama.modeling_llama import LlamaAttention

    lora_kernels.get_attention_cls_from_config = lambda _cfg: LlamaAttention
    lora_kernels.patch_self_attn_lora(DictDefault({"base_model": "-"}))


def _rank(
    out: str, *, bf16: bool, own: bool, again: bool, kernels: bool, dora: bool, hybrid: bool
) -> tuple[dict[str, Any], dict[str, int]]:
    """Compare one batch's gradients, train two steps, compare copies, save as Axolotl does."""
    import torch.distributed as dist
    from accelerate import Accelerator
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.utils import FullyShardedDataParallelPlugin, save_fsdp_model
    from axolotl.integrations.expert_parallel.shard import save_fsdp2_lora_adapter
    from axolotl.monkeypatch.accelerate.fsdp2 import patch_accelerate_fsdp2

    from multitask.rehearsal import shims

    os.environ["ACCELERATE_USE_FSDP"] = "true"
    shims.mesh_on_cpu()
    shims.fsdp_on_cpu()
    patch_accelerate_fsdp2()
    if kernels:
        _patch_attention()
    model = _adapted(torch.bfloat16 if bf16 else torch.float32, dora=dora)
    if kernels:
        _attach_kernels(model)
    if again:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        cpu_ram_efficient_loading=True,
        state_dict_type="SHARDED_STATE_DICT",
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
        activation_checkpointing=own,
    )
    mesh = ParallelismConfig(dp_replicate_size=2, dp_shard_size=2) if hybrid else None
    accelerator = Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        cpu=True,
        fsdp_plugin=plugin,
        parallelism_config=mesh,
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    torch.manual_seed(dist.get_rank())
    ids = torch.randint(0, 64, (2, 12))
    trainer = SimpleNamespace(
        is_deepspeed_enabled=False,
        accelerator=accelerator,
        balance=None,
        _prepare_inputs=dict,
        compute_loss_context_manager=nullcontext,
        compute_loss=lambda model, batch: model(**batch).loss,
    )
    found = probe.compare_gradients(trainer, model, {"input_ids": ids, "labels": ids})
    for _ in range(2):
        accelerator.backward(model(input_ids=ids, labels=ids).loss)
        optimizer.step()
        optimizer.zero_grad()
    copies = probe.compare_copies(model)
    save_fsdp2_lora_adapter(model, f"{out}/adapter")
    save_fsdp_model(plugin, accelerator, model, f"{out}/checkpoint", adapter_only=True)
    return found, copies


def _train(folder: Path, ranks: int, **how: bool) -> tuple[dict[str, Any], dict[str, int]]:
    # Imported once, before the ranks are forked.
    from transformers import LlamaForCausalLM  # noqa: F401

    (folder / "answers").mkdir()
    usual = dict.fromkeys(("bf16", "own", "again", "kernels", "dora", "hybrid"), False)

    def rank() -> Any:
        return _rank(str(folder), **usual | how)

    answers: list[Any] = run_ranks(ranks, rank, folder=folder / "answers")
    return answers[0]  # type: ignore[no-any-return]


def test_lora_as_it_is_configured_is_sound(tmp_path: Path) -> None:
    """Recomputing by gradient_checkpointing, and fused kernels, under FSDP2 in bfloat16."""
    from safetensors.torch import load_file

    found, _ = _train(tmp_path, 2, bf16=True, again=True, kernels=True)
    assert found["recompute"] == {"lora_B": 0.0}
    assert found["kernels"]["lora_B"] < 0.05
    load_adapter(_base(torch.bfloat16), tmp_path / "adapter")
    saved = saved_adapter(tmp_path / "checkpoint")
    final = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert saved.keys() == final.keys()
    assert all(torch.equal(saved[name], final[name]) for name in final)


def test_checkpointing_of_fsdp_s_own_is_found(tmp_path: Path) -> None:
    """accelerate/utils/fsdp_utils.py:615 and axolotl/monkeypatch/accelerate/fsdp2.py:485."""
    found, _ = _train(tmp_path, 2, own=True)
    assert found["recompute"]["lora_B"] > 0.1  # dropout differs in the backward pass
    with pytest.raises(InputError, match="28 of 28 tensors are missing"):
        load_adapter(_base(torch.float32), tmp_path / "adapter")


def test_kernels_on_sharded_dora_are_found(tmp_path: Path) -> None:
    """axolotl/kernels/lora.py:110-113: gradients of magnitudes are not reduced."""
    found, copies = _train(tmp_path, 4, kernels=True, dora=True, hybrid=True)
    assert found["kernels"]["lora_magnitude_vector"] > 0.5
    assert found["kernels"]["lora_B"] < 0.01
    assert copies["differing"] > 0


def test_sharded_dora_is_sound_without_them(tmp_path: Path) -> None:
    _, copies = _train(tmp_path, 4, dora=True, hybrid=True)
    assert copies["differing"] == 0 < copies["parts"]


@pytest.mark.parametrize(
    ("config", "widths", "what"),
    [
        ({"bf16": True}, (4, 4, 8), ""),
        ({"bf16": True}, (2, 2, 4), "weights: 2 bytes per parameter, 4 in the estimate"),
        ({"bf16": True, "adapter": "lora"}, (4, 4, 8), ""),
    ],
    ids=["float32", "bfloat16", "adapter"],
)
def test_widths_are_compared_with_the_estimate_s(
    config: dict[str, Any], widths: tuple[float, ...], what: str
) -> None:
    held = dict(zip(("weights", "gradients", "optimizer"), widths, strict=True))
    for ranks in (1, 2):
        check = Check("", question="held", severity="ok")
        compare_widths(check, config, held, ranks)
        assert check.passed is not bool(what)
        assert what in check.answer


def test_what_ranks_found_becomes_checks(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.logs.mkdir()
    run.axolotl.write_text("bf16: true\nadapter: lora\n")
    probe_file(run).write_text(
        '{"gradients": {"recompute": {"lora_B": 0.36}, "kernels": {"lora_B": 0.003}},'
        ' "copies": {"parts": 84, "differing": 16},'
        ' "widths": {"weights": 4, "gradients": 4, "optimizer": 8}}'
    )
    checks = Checklist()
    check_probe(checks, run, ranks=4)
    assert [check.passed for check in checks.checks] == [False, True, False, True]
    assert "lora_B 0.36" in checks.checks[0].answer
    assert "16 of 84" in checks.checks[2].answer
