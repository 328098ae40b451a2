"""What a push puts on the Hub, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multitask.errors import InputError, MultitaskError
from multitask.run import Run
from tests.hub.conftest import WANDB_KEY, Push
from tests.hub_upload_server import TOKEN, Repo, UploadHub

torch = pytest.importorskip("torch")

NAMES = {
    "README.md",
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "calibration.json",
    "tasks.json",
    "axolotl.yaml",
    "plan.md",
    "spec.yaml",
    "evaluation/trained/results.json",
}


def _state(content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(content)


def test_a_model_is_pushed_in_one_commit_to_a_private_repository(
    run: Run, hub: UploadHub, push_to: Push
) -> None:
    done = push_to(run)
    repo = hub.repos["alice/toy"]
    assert repo.private
    assert len(repo.commits) == 2
    assert done.commit == repo.head
    assert set(repo.files) >= NAMES
    assert repo.files["model.safetensors"] == (run.model / "model.safetensors").read_bytes()
    assert not (run.root / "hub").exists()


def test_public_makes_it_public(run: Run, hub: UploadHub, push_to: Push) -> None:
    push_to(run, public=True)
    assert not hub.repos["alice/toy"].private


def test_a_name_alone_is_the_users(run: Run, hub: UploadHub, push_to: Push) -> None:
    assert push_to(run, "mine").repo == "alice/mine"


def test_an_organisations_member_may_push(run: Run, hub: UploadHub, push_to: Push) -> None:
    assert push_to(run, "acme/mine").repo == "acme/mine"


def test_no_secret_and_no_path_of_this_machine_is_uploaded(
    run: Run, hub: UploadHub, push_to: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.plan.write_text(run.plan.read_text() + f"\nas {TOKEN}, from https://me:pw123@host/x\n")
    monkeypatch.setenv("OTHER_SECRET", "a very secret word")
    run.spec.write_text(run.spec.read_text() + "# a very secret word\n")
    push_to(run)
    for name, content in hub.repos["alice/toy"].files.items():
        text = content.decode("utf-8", "replace")
        for secret in (TOKEN, WANDB_KEY, "pw123", "a very secret word", "/home/someone"):
            assert secret not in text, (name, secret)
        assert str(run.root) not in text, name
    yaml = hub.repos["alice/toy"].files["axolotl.yaml"].decode()
    assert "wandb_project: claims" in yaml
    assert "special_tokens: {pad_token: <|pad|>}" in yaml


def test_what_others_put_there_is_not_overwritten(run: Run, hub: UploadHub, push_to: Push) -> None:
    hub.repos["alice/toy"] = Repo(files={"theirs.txt": b"1"})
    with pytest.raises(InputError, match="holds 1 files"):
        push_to(run)
    assert hub.repos["alice/toy"].files == {"theirs.txt": b"1"}
    assert hub.asked("POST") == 0


def test_force_replaces_everything_in_one_commit(run: Run, hub: UploadHub, push_to: Push) -> None:
    files = {"adapter_config.json": b"{}", ".gitattributes": b""}
    hub.repos["alice/toy"] = Repo(files=dict(files))
    push_to(run, force=True)
    repo = hub.repos["alice/toy"]
    assert "adapter_config.json" not in repo.files
    assert len(repo.commits) == 2


def test_an_empty_repository_is_filled(run: Run, hub: UploadHub, push_to: Push) -> None:
    hub.repos["alice/toy"] = Repo(files={".gitattributes": b""})
    push_to(run)
    assert hub.asked("POST /api/repos/create") == 0
    assert "model.safetensors" in hub.repos["alice/toy"].files


def test_a_public_repository_needs_public(run: Run, hub: UploadHub, push_to: Push) -> None:
    hub.repos["alice/toy"] = Repo(private=False)
    with pytest.raises(InputError, match="the repository is public"):
        push_to(run)


def test_an_adapter_names_its_base_by_the_repository_that_others_have(
    adapter_run: Run, hub: UploadHub, push_to: Push
) -> None:
    push_to(adapter_run, base_model="owner/base")
    files = hub.repos["alice/toy"].files
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "owner/base"
    assert config["r"] == 4
    assert "model.safetensors" not in files
    assert files["adapter_model.safetensors"]


def test_an_adapter_of_a_folder_is_refused_before_the_hub_is_asked(
    adapter_run: Run, hub: UploadHub, push_to: Push
) -> None:
    with pytest.raises(InputError, match="which others do not have"):
        push_to(adapter_run)
    assert not hub.requests


def test_merged_is_the_base_plus_the_adapter(
    adapter_run: Run, hub: UploadHub, push_to: Push, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    push_to(adapter_run, merged=True)
    files = hub.repos["alice/toy"].files
    assert not [name for name in files if name.startswith("adapter")]
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "got").mkdir(exist_ok=True)
        (tmp_path / "got" / name).write_bytes(files[name])
    base = AutoModelForCausalLM.from_pretrained(adapter_run.root / "base")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = base(ids).logits
        expected = PeftModel.from_pretrained(base, adapter_run.model)(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "got")(ids).logits
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged, plain, atol=1e-2)
    assert not (adapter_run.root / "hub").exists()


def test_a_whole_model_has_nothing_to_merge(run: Run, push_to: Push) -> None:
    with pytest.raises(InputError, match="no adapter to merge"):
        push_to(run, merged=True)


def test_shards_of_fsdp_are_merged(sharded_run: Run, hub: UploadHub, push_to: Push) -> None:
    path = sharded_run.model / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"architectures": ["FSDPLlamaForCausalLM"]}))
    push_to(sharded_run)
    assert json.loads(hub.repos["alice/toy"].files["config.json"]) == config
    got = _state(hub.repos["alice/toy"].files["model.safetensors"])
    expected = _state((sharded_run.root / "whole.safetensors").read_bytes())
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], expected[name]) for name in got)


def test_shards_of_an_unfinished_training_are_refused(sharded_run: Run, push_to: Push) -> None:
    path = sharded_run.model / "checkpoint-12" / "trainer_state.json"
    path.write_text(json.dumps({"global_step": 12, "max_steps": 20}))
    with pytest.raises(InputError, match="stopped at step 12 of 20"):
        push_to(sharded_run)


def test_torn_shards_leave_nothing_half_merged(
    sharded_run: Run, hub: UploadHub, push_to: Push
) -> None:
    folder = sharded_run.model / "checkpoint-12" / "pytorch_model_fsdp_0"
    (shard,) = folder.glob("*.distcp")
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(MultitaskError, match="cannot be merged"):
        push_to(sharded_run)
    left = {path.name for path in (sharded_run.root / "hub").iterdir()}
    assert left == {"upload.json"}
    assert hub.repos["alice/toy"].files.keys() == {".gitattributes"}


def test_an_adapter_that_does_not_fit_its_base_leaves_nothing_half_merged(
    adapter_run: Run, push_to: Push
) -> None:
    path = adapter_run.model / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 7}))
    with pytest.raises(MultitaskError, match="cannot be merged"):
        push_to(adapter_run, merged=True)
    assert {p.name for p in (adapter_run.root / "hub").iterdir()} == {"upload.json"}


def test_an_untrained_run_is_refused(run: Run, hub: UploadHub, push_to: Push) -> None:
    (run.model / "config.json").unlink()
    with pytest.raises(InputError, match="no trained model"):
        push_to(run)
    assert not hub.requests
