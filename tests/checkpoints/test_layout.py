"""What a complete checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.checkpoints import find_problems
from multitask.checkpoints.layout import Kind, kind_of, list_files, shard_problems
from tests.checkpoints.conftest import write_plain, write_sharded

PLAIN = ["model.safetensors", "optimizer.pt", "scheduler.pt", "training_args.bin",
         "rng_state.pth", "trainer_state.json"]  # fmt: skip


def test_a_whole_checkpoint_has_no_problem(tmp_path: Path) -> None:
    assert find_problems(write_plain(tmp_path / "checkpoint-3"), 1) == ()
    assert find_problems(write_plain(tmp_path / "ddp" / "checkpoint-3", 4), 4) == ()
    sharded = write_sharded(tmp_path / "fsdp" / "checkpoint-3", 2)
    assert find_problems(sharded, 2) == ()
    assert shard_problems(sharded) == []


@pytest.mark.parametrize("name", PLAIN)
def test_each_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    folder = write_plain(tmp_path / "checkpoint-3")
    (folder / name).unlink()
    problems = find_problems(folder, 1)
    assert len(problems) == 1
    assert name in problems[0]
    assert "missing" in problems[0]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_each_file_that_is_cut_is_named(tmp_path: Path, name: str, share: float) -> None:
    folder = write_plain(tmp_path / "checkpoint-3")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    assert name in "".join(find_problems(folder, 1))


@pytest.mark.parametrize("part", ["pytorch_model_fsdp_0", "optimizer_0"])
def test_every_shard_that_the_metadata_promises_is_needed(tmp_path: Path, part: str) -> None:
    folder = write_sharded(tmp_path / "checkpoint-3")
    shard = next((folder / part).glob("*.distcp"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert shard_problems(folder) == [f"{part}/{shard.name} is cut short"]
    shard.unlink()
    assert shard_problems(folder) == [f"{part}/{shard.name} is missing"]
    assert find_problems(folder, 2) == (f"{part}/*.distcp is missing",)
    (folder / part / ".metadata").write_bytes(b"\x80\x04")
    assert "cannot be read" in shard_problems(folder)[0]
    (folder / part / ".metadata").unlink()
    assert f"{part}/.metadata is missing" in find_problems(folder, 2)


def test_every_process_has_its_random_state(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "checkpoint-3", 12)
    (folder / "rng_state_7.pth").unlink()
    assert find_problems(folder, 12) == ("rng_state_7.pth is missing",)


def test_a_state_of_another_step_is_a_problem(tmp_path: Path) -> None:
    folder = write_plain(tmp_path / "checkpoint-3").rename(tmp_path / "checkpoint-4")
    assert find_problems(folder, 1) == ("trainer_state.json is of step 3",)


def test_an_adapter_stands_for_the_weights(tmp_path: Path) -> None:
    folder = write_plain(tmp_path / "checkpoint-3")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert find_problems(folder, 1) == ("adapter_config.json is missing",)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    assert find_problems(folder, 1) == ()


def test_every_file_of_sharded_weights_is_needed(tmp_path: Path) -> None:
    folder = write_plain(tmp_path / "checkpoint-3")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(index)
    assert find_problems(folder, 1) == ("model-2.safetensors is missing",)


def test_deepspeed_needs_every_partition(tmp_path: Path) -> None:
    folder = write_plain(tmp_path / "checkpoint-3", 2)
    for name in ("model.safetensors", "scheduler.pt", "training_args.bin"):
        (folder / name).unlink()
    (folder / "latest").write_text("global_step3")
    tag = folder / "global_step3"
    tag.mkdir()
    whole = folder / "optimizer.pt"
    for name in ("mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        (tag / name).write_bytes(whole.read_bytes())
    assert kind_of(list_files(folder)) is Kind.DEEPSPEED
    missing = "global_step3/zero_pp_rank_1_mp_rank_00_optim_states.pt is missing"
    assert find_problems(folder, 2) == (missing,)
    name = "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    (tag / name).write_bytes(whole.read_bytes())
    assert find_problems(folder, 2) == ()
