"""Logins and access, asked of a Hub on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from multitask.doctor.logins import weights_are_cached
from tests.doctor.conftest import Doctor, Told
from tests.hub_upload_server import TOKEN, Repo, UploadHub, upload_hub

LLAMA = "meta-llama/Llama-3.2-1B"
PLACE = "legacy-datasets/banking77"


@pytest.fixture
def hub() -> Iterator[UploadHub]:
    with upload_hub() as served:
        yield served


@pytest.fixture
def ask(doctor: Doctor, tmp_path: Path) -> Callable[..., Told]:
    """Look at a spec with a gated model and a dataset on the Hub."""

    def call(
        url: str, *, token: str = TOKEN, more: str = "", seconds: float = 120, **environment: str
    ) -> Told:
        spec = tmp_path / "spec.yaml"
        spec.write_text(f"model: {LLAMA}\ntasks: [banking77]\n{more}")
        online = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
        return doctor(spec, "--timeout", seconds, **online | environment)

    return call


def test_a_login_with_access_is_ok(hub: UploadHub, ask: Callable[..., Told]) -> None:
    hub.repos |= {LLAMA: Repo(), PLACE: Repo()}
    told = ask(hub.url)
    assert told.check("Hugging Face login").answer == "as alice, write token"
    assert told.check("model").severity == "ok"
    assert told.check("data of banking77").severity == "ok"
    assert TOKEN not in json.dumps(told.record)


def test_a_token_that_the_hub_does_not_know_is_a_problem(
    hub: UploadHub, ask: Callable[..., Told]
) -> None:
    check = ask(hub.url, token="hf_wrong").check("Hugging Face login")
    assert check.severity == "problem"
    assert "does not accept the login (401)" in check.answer
    assert "renew HF_TOKEN" in check.remedy


def test_a_gated_model_names_the_page_to_visit(hub: UploadHub, ask: Callable[..., Told]) -> None:
    hub.gated.add(LLAMA)
    check = ask(hub.url).check("model")
    assert check.severity == "problem"
    assert check.answer.startswith(f"https://huggingface.co/{LLAMA}: ")
    assert "accept its conditions" in check.remedy


def test_a_gated_dataset_is_a_problem_once_no_place_gives_it(
    hub: UploadHub, ask: Callable[..., Told]
) -> None:
    hub.gated |= {PLACE}
    check = ask(hub.url).check("data of banking77")
    assert (check.severity, "gated or private" in check.answer) == ("problem", True)


def test_a_model_that_is_not_there_is_a_problem(hub: UploadHub, ask: Callable[..., Told]) -> None:
    check = ask(hub.url).check("model")
    assert check.severity == "problem"
    assert f"no model {LLAMA}" in check.answer


def test_a_gated_model_without_a_token_is_a_problem(
    hub: UploadHub, ask: Callable[..., Told]
) -> None:
    check = ask(hub.url, token="").check("Hugging Face login")
    assert (check.severity, check.answer) == ("problem", "no token, and the model is gated")


def test_right_to_push_is_asked_before_the_training(
    hub: UploadHub, ask: Callable[..., Told]
) -> None:
    told = ask(hub.url, more="hub: {repo: nobody/model}\n")
    assert told.check("push").severity == "warning"
    assert "alice is no member of nobody" in told.check("push").answer


def test_a_hub_that_answers_nothing_leaves_it_unchecked(ask: Callable[..., Told]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        told = ask(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.5)
    for name in ("Hugging Face login", "model", "data of banking77"):
        assert told.check(name).severity == "warning"
        assert "no answer in 0.5 s" in told.check(name).answer


def test_without_a_network_it_is_not_checked(ask: Callable[..., Told]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = ask(f"http://127.0.0.1:{port}")
    assert told.check("Hugging Face login").answer == (
        "a token is there; not checked (the Hub cannot be reached: ConnectError)"
    )
    assert told.check("model").severity == "warning"
    assert told.check("data of banking77").answer.startswith("not checked: ")


def test_a_hub_in_trouble_is_no_fault_of_the_login(
    hub: UploadHub, ask: Callable[..., Told]
) -> None:
    hub.fail = {"whoami": [503]}
    check = ask(hub.url).check("Hugging Face login")
    assert (check.severity, "the Hub answers 503" in check.answer) == ("warning", True)


def test_offline_mode_without_the_model_is_a_problem_where_it_trains(
    ask: Callable[..., Told],
) -> None:
    check = ask("http://127.0.0.1:9", HF_HUB_OFFLINE="1", NODE_RANK="0").check("model")
    assert check.severity == "problem"
    assert f"hf download {LLAMA}" in check.remedy


def test_weights_in_the_cache_need_no_access(ask: Callable[..., Told], tmp_path: Path) -> None:
    cached(tmp_path / "hf" / "hub", ("config.json", "model.safetensors"))
    told = ask("http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert told.check("model").severity == "ok"
    assert "in this machine's cache" in told.check("model").answer
    assert "Hub cache" not in told.check("disk").answer


def test_a_cached_config_alone_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path, ("config.json",))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights_are_cached(LLAMA) is False


def test_a_model_with_a_shard_missing_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached(tmp_path, ("config.json", "a.safetensors"))
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights_are_cached(LLAMA) is False
    (snapshot / "b.safetensors").touch()
    assert weights_are_cached(LLAMA) is True


def cached(cache: Path, names: tuple[str, ...]) -> Path:
    """A model in the Hub's cache, laid out as its client does."""
    commit = "0" * 40
    root = cache / f"models--{LLAMA.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    for name in names:
        (snapshot / name).write_text("{}")
    return snapshot


TRACKED = (
    "model: owner/model\ntasks: [text_claims]\nsample: true\ntracking: {wandb: {project: p}}\n"
)


@pytest.mark.parametrize(
    ("environment", "state", "words"),
    [
        ({}, "warning", "no login"),
        ({"WANDB_API_KEY": "0" * 40}, "ok", "a login is there"),
        ({"WANDB_MODE": "offline"}, "ok", "WANDB_MODE=offline"),
    ],
)
def test_wandb_has_a_login_where_the_spec_tracks(
    doctor: Doctor, tmp_path: Path, environment: dict[str, str], state: str, words: str
) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "spec.yaml").write_text(TRACKED)
    check = doctor(tmp_path / "spec.yaml", **environment).check("Weights & Biases")
    assert check.severity == state
    assert words in check.answer


def test_wandb_is_not_asked_for_where_nothing_is_tracked(doctor: Doctor) -> None:
    assert doctor().check("Weights & Biases").severity == "ok"
