"""Refusals, outages and cuts: one message each, and the same command goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml

from multitask.errors import InputError, MultitaskError
from multitask.hub.push import PushSettings, push
from multitask.run import Run
from tests.hub.conftest import Push
from tests.hub_upload_server import TOKEN, Repo, UploadHub

pytest.importorskip("torch")

WHOAMI, CREATE, OBJECT, COMMIT = "GET /api/whoami", "/repos/create", "PUT /objects", "/commit/"


def _token(role: str, *scopes: dict[str, Any]) -> dict[str, Any]:
    details = {"fineGrained": {"global": [], "scoped": list(scopes)}} if scopes else {}
    return {"type": "access_token", "accessToken": {"role": role, **details}}


def _scope(name: str, *permissions: str) -> dict[str, Any]:
    return {"entity": {"type": "user", "name": name}, "permissions": list(permissions)}


def test_nobody_logged_in_is_refused_without_a_request(
    run: Run, hub: UploadHub, online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="nobody is logged in"):
        push(run, "alice/toy", PushSettings(), api=HfApi(endpoint=hub.url))
    assert not hub.requests


@pytest.mark.parametrize(
    ("auth", "repo", "message"),
    [
        (_token("read"), "alice/toy", "the token may only read"),
        (_token("fineGrained", _scope("alice", "repo.content.read")), "alice/toy", "fine-grained"),
        (_token("fineGrained", _scope("acme", "repo.write")), "alice/toy", "fine-grained"),
        (_token("write"), "strangers/toy", "no member of strangers"),
        (_token("write"), "readers/toy", "may only read in readers"),
        (_token("write"), "a/b/c", "no name of a repository"),
    ],
)
def test_a_missing_right_is_found_before_anything_is_merged_or_made(
    adapter_run: Run, hub: UploadHub, push_to: Push, auth: Any, repo: str, message: str
) -> None:
    hub.who["auth"] = auth
    with pytest.raises(InputError, match=message):
        push_to(adapter_run, repo, merged=True)
    assert not [request for request in hub.requests if "whoami" not in request]
    assert not (adapter_run.root / "hub").exists()


def test_a_fine_grained_token_of_this_owner_suffices(
    run: Run, hub: UploadHub, push_to: Push
) -> None:
    hub.who["auth"] = _token("fineGrained", _scope("alice", "repo.write"))
    assert push_to(run).repo == "alice/toy"


@pytest.mark.parametrize(
    ("where", "status", "message"),
    [
        (WHOAMI, 401, "does not accept the login"),
        (CREATE, 401, "does not accept the login"),
        (CREATE, 403, "may not write here"),
        (CREATE, 404, "no such repository or owner"),
        (OBJECT, 403, "may not write here"),
        (COMMIT, 403, "may not write here"),
    ],
)
def test_a_refusal_is_one_message_of_wrong_input(
    run: Run, hub: UploadHub, push_to: Push, where: str, status: int, message: str
) -> None:
    hub.fail = {where: [status]}
    with pytest.raises(InputError, match=message) as raised:
        push_to(run)
    assert TOKEN not in str(raised.value)
    assert not [repo for repo in hub.repos.values() if len(repo.commits) > 1]


def test_a_repository_that_someone_makes_meanwhile_is_not_taken(
    run: Run, hub: UploadHub, push_to: Push
) -> None:
    hub.repos["alice/toy"] = Repo(files={"theirs.txt": b"1"})
    hub.fail = {"GET /api/models/alice/toy": [404]}
    with pytest.raises(InputError, match="exists already"):
        push_to(run)
    assert hub.repos["alice/toy"].files == {"theirs.txt": b"1"}


def test_a_change_by_someone_else_is_not_overwritten(
    run: Run, hub: UploadHub, push_to: Push
) -> None:
    hub.fail = {COMMIT: [412]}
    with pytest.raises(MultitaskError, match="someone else changed"):
        push_to(run)


@pytest.mark.parametrize("status", [429, 500, 503, None])
@pytest.mark.parametrize("where", [WHOAMI, CREATE, OBJECT, COMMIT])
def test_what_passes_is_waited_for(
    run: Run, hub: UploadHub, push_to: Push, where: str, status: int | None
) -> None:
    hub.fail = {where: [status, status]}
    push_to(run)
    assert "model.safetensors" in hub.repos["alice/toy"].files


@pytest.mark.parametrize(
    ("where", "status", "message"),
    [
        (WHOAMI, 503, "answers 503 again and again"),
        (WHOAMI, 429, "answers 429 again and again"),
        (OBJECT, 500, "answers 500 again and again"),
        (OBJECT, None, "broke off"),
        (COMMIT, None, "broke off"),
    ],
)
def test_what_does_not_pass_is_one_message_of_failed_work(
    run: Run, hub: UploadHub, push_to: Push, where: str, status: int | None, message: str
) -> None:
    hub.fail = {where: [status] * 99}
    with pytest.raises(MultitaskError, match=message) as raised:
        push_to(run)
    assert raised.value.exit_code == 1
    assert "start the same command again" in str(raised.value)
    assert hub.url not in str(raised.value)


def test_a_cut_upload_goes_on_without_merging_or_sending_again(
    adapter_run: Run, hub: UploadHub, push_to: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fail = {COMMIT: [None] * 99}
    with pytest.raises(MultitaskError, match="broke off"):
        push_to(adapter_run, merged=True)
    assert hub.repos["alice/toy"].files.keys() == {".gitattributes"}
    sent = hub.sent
    assert sent > 0
    hub.fail = {}
    monkeypatch.setattr("multitask.hub.weights._merge_adapter", lambda *_: pytest.fail("merged"))
    push_to(adapter_run, merged=True)
    assert hub.sent == sent
    assert "model.safetensors" in hub.repos["alice/toy"].files
    assert not (adapter_run.root / "hub").exists()


def test_merged_weights_of_other_weights_are_not_taken(
    adapter_run: Run, hub: UploadHub, push_to: Push
) -> None:
    from safetensors.torch import load, load_file, save_file

    hub.fail = {COMMIT: [None] * 99}
    with pytest.raises(MultitaskError, match="broke off"):
        push_to(adapter_run, merged=True)
    hub.fail = {}
    before = load((adapter_run.root / "hub/model/model.safetensors").read_bytes())
    path = adapter_run.model / "adapter_model.safetensors"
    save_file({k: v * 2 for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    push_to(adapter_run, merged=True)
    after = load(hub.repos["alice/toy"].files["model.safetensors"])
    assert any(not after[name].equal(before[name]) for name in after)


def test_a_commit_whose_answer_is_lost_counts(run: Run, hub: UploadHub, push_to: Push) -> None:
    hub.cut_after_commit = 1
    done = push_to(run)
    assert len(hub.repos["alice/toy"].commits) == 2
    assert done.commit == hub.repos["alice/toy"].head


def _command(
    run: Run, hub: UploadHub, repo: str | None = "alice/toy", **environment: str
) -> subprocess.CompletedProcess[str]:
    home = str(run.root.parent / "hf")
    env = dict(os.environ) | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": home}
    env.pop("HF_TOKEN", None)
    return subprocess.run(
        [sys.executable, "-m", "multitask", "push", str(run.root), *([repo] if repo else [])],
        capture_output=True,
        text=True,
        env=env | environment,
    )


def test_the_command_reads_endpoint_and_login_from_the_environment(
    run: Run, hub: UploadHub
) -> None:
    done = _command(run, hub, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/alice/toy" in done.stdout
    assert "model.safetensors" in hub.repos["alice/toy"].files
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "nobody is logged in"),
        ({"HF_TOKEN": "hf_wrong"}, "does not accept the login (401)"),
        ({"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, "offline mode is on"),
    ],
)
def test_the_command_ends_with_2_and_one_message(
    run: Run, hub: UploadHub, environment: dict[str, str], message: str
) -> None:
    done = _command(run, hub, **environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_" not in done.stdout + done.stderr
    assert not hub.repos


def test_the_repository_of_the_spec_is_the_default(run: Run, hub: UploadHub) -> None:
    done = _command(run, hub, None, HF_TOKEN=TOKEN)
    assert done.returncode == 2
    assert "no repository is named" in done.stderr
    spec = yaml.safe_load(run.spec.read_text()) | {"hub": {"repo": "alice/of-the-spec"}}
    run.spec.write_text(yaml.safe_dump(spec))
    done = _command(run, hub, None, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert "alice/of-the-spec" in hub.repos
