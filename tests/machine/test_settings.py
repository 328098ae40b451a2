"""A machine's job and place, from variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.errors import InputError
from multitask.machine.settings import (
    Place,
    cache_variables,
    container_environment,
    network_variables,
    read_place,
    read_role,
    read_settings,
)

JOB = {
    "MULTITASK_RUN_ID": "first",
    "MULTITASK_BUNDLE_SHA256": "0" * 64,
    "MULTITASK_TOKEN": "a-token-of-some-length",
}
NODE = {"NUM_NODES": "3", "NODE_RANK": "2", "PRIMARY_ADDR": "10.65.0.2", "PRIMARY_PORT": "29400"}


def test_a_pod_needs_three_variables() -> None:
    settings = read_settings(JOB, now=5.0)
    assert settings.run_root == Path("/workspace/data/runs/first")
    assert (settings.role, settings.port, settings.name) == ("pod", 8000, "multitask-first")
    assert settings.limits.started == 5.0
    assert settings.limits.end() is None


@pytest.mark.parametrize("name", sorted(JOB))
def test_each_of_them_is_asked_for_by_name(name: str) -> None:
    with pytest.raises(InputError, match=name):
        read_settings({key: value for key, value in JOB.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MULTITASK_RUN_ID", "../x"),
        ("MULTITASK_BUNDLE_SHA256", "abc"),
        ("MULTITASK_TOKEN", "short"),
        ("MULTITASK_DEADLINE", "tomorrow"),
        ("MULTITASK_MAX_COST", "-1"),
        ("MULTITASK_MAX_COST", "5"),  # without a price, it would limit nothing
        ("MULTITASK_PRICE_PER_HOUR", "nan"),
        ("MULTITASK_ROLE", "king"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(InputError, match=name):
        read_settings({**JOB, name: value})


def test_a_token_is_not_shown() -> None:
    assert JOB["MULTITASK_TOKEN"] not in repr(read_settings(JOB))


def test_a_cluster_says_where_a_node_stands() -> None:
    place = read_place(NODE | {"NUM_TRAINERS": "4", "NODE_ADDR": "10.65.0.4"})
    assert place == Place(2, 3, "10.65.0.2", 29400, 4, "10.65.0.4")


@pytest.mark.parametrize("change", [{"NODE_RANK": "3"}, {"NODE_RANK": ""}, {"PRIMARY_ADDR": ""}])
def test_a_node_without_a_place_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(InputError):
        read_place(NODE | change)


@pytest.mark.parametrize(
    ("environ", "role"),
    [
        ({}, "pod"),
        (NODE, "node"),
        ({"RUNPOD_ENDPOINT_ID": "x"}, "serverless"),
        ({**NODE, "MULTITASK_ROLE": "pod"}, "pod"),
    ],
)
def test_the_role_is_said_or_seen(environ: dict[str, str], role: str) -> None:
    assert read_role(environ) == role


def test_a_shell_takes_the_containers_variables_from_its_first_process(tmp_path: Path) -> None:
    first = tmp_path / "environ"
    first.write_bytes(b"NODE_RANK=2\0MASTER_ADDR=10.0.0.1\0HF_TOKEN=a=b\0PATH=/x\0LANG=C\0")
    environ = container_environment({"PATH": "/bin", "NODE_RANK": "1"}, first)
    assert environ == {
        "PATH": "/bin",
        "NODE_RANK": "1",
        "MASTER_ADDR": "10.0.0.1",
        "HF_TOKEN": "a=b",
    }


def test_the_first_process_may_be_hidden(tmp_path: Path) -> None:
    assert container_environment({"A": "1"}, tmp_path / "none") == {"A": "1"}


def _interfaces(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir()
    return folder


def test_nodes_of_a_cluster_talk_over_ens1(tmp_path: Path) -> None:
    found = network_variables(Place(1, 3), {}, _interfaces(tmp_path, "eth0", "ens1", "lo"))
    assert found == {"NCCL_SOCKET_IFNAME": "ens1", "GLOO_SOCKET_IFNAME": "ens1"}


def test_an_interface_that_was_chosen_stays(tmp_path: Path) -> None:
    chosen = {"NCCL_SOCKET_IFNAME": "ib0"}
    found = network_variables(Place(1, 3), chosen, _interfaces(tmp_path, "ens1"))
    assert found == {"GLOO_SOCKET_IFNAME": "ens1"}


def test_elsewhere_it_is_the_interface_with_the_nodes_address(tmp_path: Path) -> None:
    place = Place(1, 3, own_address="127.0.0.3")
    found = network_variables(place, {}, _interfaces(tmp_path, "eth9", "lo"))
    assert set(found.values()) == {"lo"}


def test_a_node_without_the_clusters_interface_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ens1"):
        network_variables(Place(1, 3), {}, _interfaces(tmp_path, "eth9"))


def test_a_pod_needs_no_interface(tmp_path: Path) -> None:
    assert network_variables(Place(), {}, tmp_path) == {}


def test_caches_follow_the_volume() -> None:
    image = {"HF_HOME": "/workspace/data/huggingface-cache", "HF_HUB_CACHE": "/workspace/data/hub"}
    found = cache_variables(Path("/runpod-volume"), image)
    assert found["HF_HOME"].startswith("/runpod-volume/")
    assert found["HF_HUB_CACHE"].startswith("/runpod-volume/")


def test_caches_of_the_users_choice_stay() -> None:
    assert "HF_HOME" not in cache_variables(Path("/runpod-volume"), {"HF_HOME": "/elsewhere"})
    image = {"HF_HOME": "/workspace/data/huggingface-cache"}
    assert "HF_HOME" not in cache_variables(Path("/workspace/data"), image)
