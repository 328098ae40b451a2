"""How a machine removes itself, and its guard, which looks at a clock alone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from multitask.errors import MultitaskError
from multitask.machine.limits import LATE_SECONDS, Limits
from multitask.machine.main import guard, remove_later
from multitask.machine.removal import Remover
from multitask.machine.settings import Place, Settings, removal_settings
from tests.machine.platform_api import KEY, PlatformApi


@pytest.fixture
def settings(api: PlatformApi) -> Settings:
    """Node 0 of two, in a cluster that has its job's name."""
    api.pods |= {"pod-0": {"id": "pod-0"}, "pod-1": {"id": "pod-1"}}
    api.clusters |= {
        "mine": {"id": "mine", "name": "multitask-job"},
        "other": {"id": "other", "name": "another"},
    }
    return Settings(
        role="node",
        run_id="job",
        name="multitask-job",
        volume=Path("/nowhere"),
        bundle="0" * 64,
        token="a-token-of-some-length",
        port=0,
        limits=Limits(started=time.time()),
        place=Place(0, 2),
        api_url=api.url,
        api_key=KEY,
        pod_id="pod-0",
    )


def remove(settings: Settings) -> list[str]:
    """Remove without waiting between tries; what was said."""
    said: list[str] = []
    Remover(settings, said.append, sleep=lambda _: None).remove()
    return said


def test_node_0_removes_the_cluster_of_its_name(settings: Settings, api: PlatformApi) -> None:
    remove(settings)
    assert api.deleted == ["clusters/mine"]


def test_the_cluster_that_the_platform_names_comes_first(
    settings: Settings, api: PlatformApi
) -> None:
    api.pods["pod-0"]["cluster"] = {"id": "other", "rank": 0}
    remove(settings)
    assert api.deleted == ["clusters/other"]


def test_another_node_removes_itself_alone(settings: Settings, api: PlatformApi) -> None:
    remove(replace(settings, place=Place(1, 2), pod_id="pod-1"))
    assert api.deleted == ["pods/pod-1"]


def test_of_two_clusters_of_one_name_none_is_removed(settings: Settings, api: PlatformApi) -> None:
    api.clusters["other"]["name"] = "multitask-job"
    said = remove(settings)
    assert api.deleted == ["pods/pod-0"]
    assert "2 clusters are called 'multitask-job'" in said[0]


def test_a_key_that_may_not_remove_clusters_removes_its_pod(
    settings: Settings, api: PlatformApi
) -> None:
    api.forbid_clusters = True
    said = remove(settings)
    assert api.deleted == ["pods/pod-0"]
    assert "403" in said[0]


def test_a_node_that_cannot_be_deleted_alone_removes_the_cluster(
    settings: Settings, api: PlatformApi
) -> None:
    api.members_stay = True
    remove(replace(settings, place=Place(1, 2), pod_id="pod-1"))
    assert api.deleted == ["clusters/mine"]


def test_the_cluster_is_tried_until_the_platform_is_back(
    settings: Settings, api: PlatformApi
) -> None:
    api.members_stay, api.failures = True, 6  # longer than the first tries at the cluster
    remove(settings)
    assert api.deleted == ["clusters/mine"]


def test_what_is_gone_already_is_removed(settings: Settings, api: PlatformApi) -> None:
    api.pods.clear()
    remove(replace(settings, place=Place()))
    assert api.deleted == []


def test_a_platform_that_cannot_be_reached_is_tried_again(
    settings: Settings, api: PlatformApi
) -> None:
    waits: list[float] = []
    settings = replace(settings, place=Place(), api_url="http://127.0.0.1:9/v2")

    class EnoughError(Exception):
        pass

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            raise EnoughError

    with pytest.raises(EnoughError):
        Remover(settings, lambda _: None, sleep=sleep).remove()
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


def test_the_key_is_in_no_message(settings: Settings, api: PlatformApi) -> None:
    api.failures = 1
    assert KEY not in "".join(remove(settings))


def test_without_a_key_it_says_what_a_person_must_do(settings: Settings) -> None:
    with pytest.raises(MultitaskError, match="runpod down"):
        remove(replace(settings, api_key=None))


def test_the_guard_removes_a_machine_past_its_end(settings: Settings, api: PlatformApi) -> None:
    limits = Limits(started=time.time() - 9000, deadline=time.time() - LATE_SECONDS - 1)
    assert guard(replace(settings, limits=limits), {}) == 0
    assert api.deleted == ["clusters/mine"]


def test_without_an_end_there_is_no_guard(settings: Settings, api: PlatformApi) -> None:
    assert guard(settings, {}) == 0
    assert api.deleted == []


def test_a_machine_without_a_job_that_can_be_read_removes_itself_alone(
    settings: Settings, api: PlatformApi
) -> None:
    environ = {
        "MULTITASK_RUN_ID": "../x",
        "MULTITASK_API_URL": api.url,
        "RUNPOD_API_KEY": KEY,
        "RUNPOD_POD_ID": "pod-1",
        "NUM_NODES": "many",
    }
    remove(removal_settings(environ))
    assert api.deleted == ["pods/pod-1"]


def test_a_machine_that_cannot_work_goes_after_its_grace(
    settings: Settings, api: PlatformApi, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = replace(settings.limits, grace=0.0)
    remove_later(replace(settings, limits=limits, place=Place()), {"RUNPOD_API_KEY": KEY})
    assert api.deleted == ["pods/pod-0"]
    assert KEY not in capsys.readouterr().err
