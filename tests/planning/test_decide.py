"""What is decided from a spec: sharding, batch, cadence, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multitask.data.tokens import Workload
from multitask.errors import InputError
from multitask.models import ModelInfo, model_info
from multitask.planning.compare import plan_section
from multitask.planning.decide import decide
from multitask.planning.setup import Setup
from multitask.runners.axolotl.checks import check_config, plan_of
from multitask.runners.axolotl.file import axolotl_file
from multitask.spec import Spec

_1B = "meta-llama/Llama-3.2-1B-Instruct"
_8B = "meta-llama/Llama-3.1-8B-Instruct"
_70B = "meta-llama/Llama-3.3-70B-Instruct"
_WORK = Workload(20_000, 2_000, 80.0, 300, counted=True)


def _decide(model: str = _8B, workload: Workload | None = _WORK, **changes: Any) -> Setup:
    spec = Spec.model_validate({"model": model, "tasks": ["banking77"]} | changes)
    return decide(spec, model_info(model, Path("/nowhere")), workload)


def test_a_model_that_fits_a_node_is_replicated_across_nodes() -> None:
    setup = _decide(method="full")
    assert (setup.topology.sharding, setup.topology.shard, setup.topology.replicate) == (
        "hsdp",
        4,
        3,
    )
    config = axolotl_file(setup).config
    assert (config["dp_shard_size"], config["dp_replicate_size"]) == (4, 3)
    assert config["fsdp_config"]["state_dict_type"] == "SHARDED_STATE_DICT"


def test_a_model_that_needs_more_than_a_node_is_sharded_over_all() -> None:
    setup = _decide("Qwen/Qwen2.5-32B-Instruct", method="full")
    assert (setup.topology.sharding, setup.topology.shard) == ("fsdp", 12)
    assert "dp_shard_size" not in axolotl_file(setup).config


def test_a_model_of_unknown_size_is_sharded_over_all_and_said() -> None:
    setup = _decide("nobody/knows")
    assert setup.topology.sharding == "fsdp"
    assert "size is not known" in setup.topology.reason
    assert any("nothing is known of nobody/knows" in warning for warning in setup.warnings)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("sharding", ["fsdp", "hsdp", "zero1", "zero2", "zero3", "ddp"])
def test_every_sharding_makes_a_sound_configuration(
    sharding: str, method: str, offload: bool
) -> None:
    if offload and sharding in ("ddp", "zero1"):
        with pytest.raises(InputError, match="CPU offload needs"):
            _decide(_1B, sharding=sharding, cpu_offload=offload, method=method)
        return
    setup = _decide(_1B, sharding=sharding, cpu_offload=offload, method=method)
    config = axolotl_file(setup).config
    assert ("fsdp_config" in config) == (sharding in ("fsdp", "hsdp"))
    assert ("deepspeed" in config) == sharding.startswith("zero")
    findings = check_config(plan_of(setup))
    assert [f for f in findings if not f.passed] == []


def test_a_sharding_that_the_cluster_or_method_cannot_do_is_refused() -> None:
    with pytest.raises(InputError, match="it needs several nodes"):
        _decide(cluster="1x8-a100-80gb", sharding="hsdp")
    with pytest.raises(InputError, match="is one process"):
        _decide(cluster="1xh100", sharding="zero2")
    with pytest.raises(InputError, match="the method does not work with it"):
        _decide(method="lora-8bit", sharding="fsdp")


def test_what_does_not_fit_is_refused_with_the_cheapest_that_does() -> None:
    with pytest.raises(InputError, match="does not fit 1 NVIDIA RTX 4090") as error:
        _decide(cluster="1x24gb", method="full")
    assert "cheapest that fits: `cluster: 1x4-a100-80gb`, `method: full`" in str(error.value)
    assert "of all methods: `cluster: 1x24gb`" in str(error.value)
    with pytest.raises(InputError, match="no shipped cluster holds it with this method"):
        _decide(_70B, method="full")


def test_offloading_makes_room() -> None:
    setup = _decide("Qwen/Qwen2.5-32B-Instruct", cluster="1x8-a100-40gb", method="full",
                    sharding="zero3", cpu_offload=True)  # fmt: skip
    assert setup.estimate is not None
    assert setup.estimate.fits
    assert setup.estimate.memory.host > 10


def test_saves_are_at_most_half_an_hour_apart_and_at_least_one_is_on_the_way() -> None:
    long = _decide(workload=Workload(50_000_000, 100, 80.0, 300, counted=True), method="full")
    assert long.estimate is not None
    assert 1000 < long.save.steps * long.estimate.step.total <= 1800
    assert "expected loss" in long.save.reason
    short = _decide()
    assert short.estimate is not None
    assert short.save.steps <= short.estimate.steps / 2 + 1


def test_the_spec_s_own_cadence_wins() -> None:
    setup = _decide(checkpoint={"save_steps": 50})
    assert axolotl_file(setup).config["save_steps"] == 50


def test_rarer_failures_and_a_longer_limit_mean_rarer_saves() -> None:
    work = Workload(50_000_000, 100, 80.0, 300, counted=True)
    often = _decide(workload=work, method="full")
    rare = _decide(workload=work, method="full", checkpoint={"mtbf_hours": 240, "max_minutes": 300})
    assert rare.save.steps > 2 * often.save.steps


def test_packing_is_for_models_whose_packed_rows_stay_apart() -> None:
    assert axolotl_file(_decide()).config["sample_packing"] is True
    bloom = axolotl_file(_decide("bigscience/bloom-7b1")).config
    assert "sample_packing" not in bloom
    assert bloom["group_by_length"] is True


def test_the_default_batch_counts_packed_rows() -> None:
    setup = _decide(sequence_len=2048)
    assert setup.batch.global_size == 12  # a packed sequence for each GPU holds some 24 rows
    assert "about 24 rows" in plan_section(setup)
    assert _decide("bigscience/bloom-7b1").batch.global_size == 96


def test_code_of_a_model_s_repository_is_not_run_unasked() -> None:
    with pytest.raises(InputError, match="runs code from its own repository"):
        _decide("Salesforce/xgen-7b-8k-base")
    trusted = axolotl_file(_decide("Salesforce/xgen-7b-8k-base", trust_remote_code=True))
    assert trusted.config["trust_remote_code"] is True


def test_a_base_model_without_a_chat_template_takes_the_alpaca_form() -> None:
    assert axolotl_file(_decide("EleutherAI/pythia-6.9b")).config["chat_template"] == "alpaca"
    chat = _decide("EleutherAI/pythia-6.9b", templates={"format": "chat"})
    assert axolotl_file(chat).config["chat_template"] == "tokenizer_default"


def test_keys_of_the_user_win_and_are_reported() -> None:
    file = axolotl_file(
        _decide(axolotl={"warmup_ratio": 0.2, "seed": 42, "neftune_noise_alpha": 5})
    )
    assert file.config["warmup_ratio"] == 0.2
    assert file.replaced == ("warmup_ratio",)  # the same seed replaces nothing
    assert "replaced for: warmup_ratio" in file.to_yaml()


def test_gating_and_few_steps_are_said() -> None:
    few = Workload(2_000, 200, 80.0, 300, counted=True)
    warnings = "\n".join(_decide(workload=few).warnings)
    assert f"https://huggingface.co/{_8B}" in warnings
    assert "optimizer steps" in warnings


def test_the_plan_shows_memory_time_and_the_price_s_date() -> None:
    text = plan_section(_decide())
    for words in ("GB per GPU", "optimizer step", "per GPU and hour (2026-11-28", "expected loss"):
        assert words in text


def test_nothing_known_means_nothing_risky() -> None:
    spec = Spec(model="a/b", tasks=("banking77",))
    config = axolotl_file(decide(spec, ModelInfo(), _WORK)).config
    assert "liger_rms_norm" not in config
    assert "sample_packing" not in config
    assert config["lora_mlp_kernel"] is False


def test_layers_are_computed_again_only_where_memory_needs_it() -> None:
    roomy = _decide(_1B)
    assert axolotl_file(roomy).config["gradient_checkpointing"] is False
    tight = _decide(cluster="1x24gb", method="qlora")
    assert axolotl_file(tight).config["gradient_checkpointing"] is True
    asked = _decide(_1B, activation_checkpointing=True)
    config = axolotl_file(asked).config
    assert config["gradient_checkpointing"] is True
    assert config["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    # FSDP's own: accelerate/utils/fsdp_utils.py:615, axolotl/monkeypatch/accelerate/fsdp2.py:485
    assert "activation_checkpointing" not in config["fsdp_config"]
    assert roomy.estimate is not None
    assert asked.estimate is not None
    assert roomy.estimate.step.total < asked.estimate.step.total
    assert roomy.estimate.memory.total <= 0.75 * 80


def _short(longest: int = 300, tokens: float = 60.0) -> Workload:
    return Workload(20_000, 2_000, tokens, longest, counted=True)


@pytest.mark.parametrize("tokens", [30.0, 60.0, 150.0])
@pytest.mark.parametrize("cluster", ["3x4-a100-80gb", "1x8-a100-80gb", "1xh100"])
def test_a_step_sees_about_96_rows(cluster: str, tokens: float) -> None:
    setup = _decide(workload=_short(64, tokens), cluster=cluster)
    rows = setup.workload.rows_per_sequence(setup.sequence.tokens)  # type: ignore[union-attr]
    assert 96 * 0.7 <= rows * setup.batch.global_size <= 96 * 1.4
    assert setup.sequence.tokens % 64 == 0
    plan = plan_section(setup)
    assert f"sequence_len: {setup.sequence.tokens} (for about 96 rows an optimizer step" in plan
    assert axolotl_file(setup).config["sequence_len"] == setup.sequence.tokens


def test_rows_of_60_tokens_on_3x4_get_sequences_of_512() -> None:
    assert _decide(workload=_short(100, 60.0)).sequence.tokens == 512


def test_the_longest_row_fits_whatever_a_step_then_sees() -> None:
    setup = _decide(workload=_short(longest=1500))
    assert setup.sequence.tokens == 1536
    assert setup.sequence.reason == "the longest row has 1500 tokens"


def test_sequences_are_no_longer_than_the_model_was_made_for() -> None:
    setup = _decide("google/gemma-2-2b-it", workload=_short(longest=9000))
    assert setup.sequence.tokens == setup.model.shape.max_positions == 8192  # type: ignore[union-attr]
    assert any("longest has 9000 tokens" in warning for warning in setup.warnings)


def test_the_specs_own_length_wins() -> None:
    setup = _decide(workload=_short(), sequence_len=2048)
    assert setup.sequence == (2048, "as the spec says")


def test_too_few_steps_come_with_the_epochs_that_make_enough() -> None:
    work = Workload(3_000, 300, 60.0, 100, counted=True)
    (warning,) = (w for w in _decide(workload=work).warnings if "optimizer steps" in w)
    epochs = int(warning.split("`epochs: ")[1].split("`")[0])
    enough = _decide(workload=work, epochs=epochs)
    assert enough.estimate is not None
    assert enough.estimate.steps >= 200
    assert not any("optimizer steps" in w for w in enough.warnings)
    fewer = _decide(workload=work, epochs=epochs - 1)
    assert any("optimizer steps" in w for w in fewer.warnings)


def test_what_ddp_would_gain_is_said_and_fsdp_stays_the_default() -> None:
    """8B parameters with LoRA: 2 x 32 layers x 7 linears are groups of their own, and 32 + 1."""
    setup = _decide()
    assert setup.topology.sharding == "hsdp"
    plan = plan_section(setup)
    assert "`sharding: ddp` would fit too" in plan
    assert "gathers 32 GB of weights on every GPU, in 481 groups" in plan
    chosen = _decide(sharding="ddp")
    assert setup.unsharded is not None
    assert chosen.estimate is not None
    assert setup.unsharded.step == chosen.estimate.step
    assert setup.unsharded.memory == chosen.estimate.memory
    assert "would fit too" not in plan_section(chosen)


def test_ddp_is_not_named_where_it_does_not_fit() -> None:
    assert _decide(_70B).unsharded is None


def test_the_specs_cadence_counts_in_hours_and_dollars() -> None:
    work = Workload(2_000_000, 2_000, 80.0, 300, counted=True)
    free, often, share, minutes, engine = (
        _decide(workload=work, method="full", **more).estimate
        for more in (
            {},
            {"checkpoint": {"save_steps": 5}},
            {"checkpoint": {"save_steps": 0.1}},
            {"checkpoint": {"max_minutes": 2}},
            {"axolotl": {"save_steps": 5}},
        )
    )
    assert free is not None
    assert often is not None
    assert share is not None
    assert minutes is not None
    assert engine is not None
    assert often.cadence.save_steps == engine.cadence.save_steps == 5
    assert often.hours == engine.hours > 2 * free.hours
    assert share.cadence.save_steps == -(-share.steps // 10)
    assert minutes.cadence.minutes <= 2
    assert minutes.hours > free.hours


def test_collectives_wait_for_a_save_but_not_half_an_hour() -> None:
    """Axolotl hands it to torch's process group (``axolotl/utils/trainer.py``)."""
    lora = axolotl_file(_decide()).config["ddp_timeout"]
    full = axolotl_file(_decide(method="full")).config["ddp_timeout"]
    assert 900 <= lora < 1200
    assert lora < full <= 3600
    assert "ddp_timeout" not in axolotl_file(_decide(cluster="1x1-a100-80gb")).config
