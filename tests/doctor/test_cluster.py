"""Interfaces and launcher variables; the interfaces and sockets are this machine's."""

from __future__ import annotations

import socket

import pytest

from multitask.checks import Check
from multitask.cluster import load_cluster
from multitask.doctor.cluster import cluster_checks
from multitask.doctor.subject import Subject
from tests.doctor.conftest import named

CLUSTER = Subject(cluster=load_cluster("3x4-a100-80gb"))
ON_CPU = Subject(cluster=load_cluster("cpu"))


def checks(subject: Subject, *, trains_here: bool = True, **environment: str) -> list[Check]:
    return cluster_checks(subject, environment, trains_here=trains_here)


@pytest.mark.parametrize("value", ["lo", "=lo", "l", "^nothing", "nothing,lo"])
def test_an_interface_that_nccl_finds_is_ok(value: str) -> None:
    check = named(checks(Subject(), NCCL_SOCKET_IFNAME=value), "NCCL_SOCKET_IFNAME")
    assert check.severity == "ok"
    assert "lo" in check.answer.split(": ")[1].split(", ")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("NCCL_SOCKET_IFNAME", "ens1x"), ("NCCL_SOCKET_IFNAME", "=l"), ("GLOO_SOCKET_IFNAME", "l")],
)
def test_an_interface_that_is_not_there_is_a_problem(variable: str, value: str) -> None:
    check = named(checks(Subject(), **{variable: value}), variable)
    assert check.severity == "problem"
    assert "there are" in check.answer
    assert "lo" in check.answer


def test_no_variables_are_fine() -> None:
    assert {check.severity for check in checks(Subject())} == {"ok"}


def test_a_left_over_world_size_in_a_plain_shell_is_a_problem() -> None:
    check = named(checks(Subject(), WORLD_SIZE="2"), "WORLD_SIZE")
    assert (check.severity, check.remedy) == ("problem", "unset WORLD_SIZE")


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "8"), ("NUM_NODES", "2"), ("NUM_TRAINERS", "8")]
)
def test_sizes_of_another_cluster_are_problems(name: str, value: str) -> None:
    assert named(checks(CLUSTER, trains_here=False, **{name: value}), name).severity == "problem"


def test_a_cpu_run_wants_no_world_size() -> None:
    assert named(checks(ON_CPU, WORLD_SIZE="12"), "WORLD_SIZE").severity == "problem"


def test_a_process_s_own_variables_in_a_shell_are_left_over() -> None:
    check = named(checks(ON_CPU, RANK="0", LOCAL_RANK="0"), "RANK")
    assert (check.severity, check.remedy) == ("warning", "unset RANK LOCAL_RANK")


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "warning"),
        ({"NODE_RANK": "1"}, "problem"),
        ({"NODE_RANK": "3", "MASTER_ADDR": "127.0.0.1"}, "problem"),
    ],
)
def test_a_node_must_know_which_it_is(environment: dict[str, str], state: str) -> None:
    assert named(checks(CLUSTER, **environment), "NODE_RANK").severity == state


def test_where_a_run_is_only_planned_no_rank_is_missing() -> None:
    assert "NODE_RANK" not in {check.question for check in checks(CLUSTER, trains_here=False)}


def test_a_rank_on_a_run_of_one_node_is_a_problem() -> None:
    assert named(checks(ON_CPU, NODE_RANK="1"), "NODE_RANK").severity == "problem"


def test_the_leader_s_own_address_and_a_free_port_are_ok() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    found = checks(CLUSTER, NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    check = named(found, "MASTER_ADDR")
    assert (check.severity, check.answer) == (
        "ok",
        f"127.0.0.1 is this machine's, port {port} is free",
    )


def test_a_port_that_another_program_has_is_a_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        found = checks(CLUSTER, NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert named(found, "MASTER_PORT").severity == "problem"


def test_a_leader_with_another_machine_s_address_is_warned() -> None:
    # 192.0.2.0/24 is kept for documentation and belongs to nobody.
    found = checks(CLUSTER, NODE_RANK="0", MASTER_ADDR="192.0.2.1")
    assert named(found, "MASTER_ADDR").severity == "warning"


def test_another_node_reaches_the_leader_before_it_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    found = checks(CLUSTER, NODE_RANK="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    check = named(found, "MASTER_ADDR")
    assert check.severity == "ok"
    assert "nothing listens" in check.answer


def test_a_port_that_is_no_number_is_a_problem() -> None:
    found = checks(CLUSTER, NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500x")
    assert named(found, "MASTER_PORT").severity == "problem"
