"""The client of RunPod's service: keys, retries, refusals, answers that are not as documented."""

from __future__ import annotations

import pytest

from multitask.errors import InputError, MultitaskError
from multitask.runpod import api
from multitask.runpod.client import RunPod, base_url, key_from_environment
from multitask.runpod.problems import NoCapacityError, ServiceError, UnsureError
from tests.runpod.fake import KEY, FakeRunPod


class Waits:
    """Counts seconds instead of waiting."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def pod_body(**changes: object) -> dict[str, object]:
    shared = api.container(
        name="multitask-x",
        image="owner/image:1",
        env={},
        disk_gb=50,
        ports=("8000/http",),
        data_centers=(),
        volume=None,
        volume_path="/workspace/data",
    )
    return {**api.pod_request(shared, "NVIDIA A100-SXM4-80GB", 1, None), **changes}


def test_without_a_key_the_page_that_makes_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(api.KEY_ENV, raising=False)
    with pytest.raises(InputError, match="RUNPOD_API_KEY is not set"):
        key_from_environment()


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "ümlaut"])
def test_what_cannot_be_a_key_is_not_sent(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(api.KEY_ENV, key)
    with pytest.raises(InputError) as caught:
        key_from_environment()
    assert key not in str(caught.value)


def test_the_key_never_leaves_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(api.URL_ENV, "http://example.com/v2")
    with pytest.raises(InputError, match="is not https"):
        base_url()


def test_a_limit_is_waited_out_as_long_as_the_service_says(fake: FakeRunPod) -> None:
    fake.faults.rate_limited, fake.faults.retry_after = 2, 12
    waits = Waits()
    with RunPod(pause=waits) as service:
        assert service.pods() == []
    assert waits.seconds == [12.0, 12.0]


def test_a_creation_over_the_limit_is_sent_again(fake: FakeRunPod) -> None:
    fake.faults.rate_limited = 1
    with RunPod(pause=Waits()) as service:
        service.create_pod(pod_body())
    assert len(fake.ledger) == 1


def test_a_limit_without_end_is_given_up(fake: FakeRunPod) -> None:
    fake.faults.rate_limited = 100
    with RunPod(pause=Waits()) as service, pytest.raises(ServiceError, match="429"):
        service.pods()
    assert fake.faults.rate_limited == 90


def test_a_failing_service_is_asked_again_with_longer_waits(fake: FakeRunPod) -> None:
    fake.faults.failing = 3
    waits = Waits()
    with RunPod(pause=waits) as service:
        service.clusters()
    assert waits.seconds == [1.0, 2.0, 4.0]


def test_a_service_that_keeps_failing_is_given_up(fake: FakeRunPod) -> None:
    fake.faults.failing = 100
    with RunPod(pause=Waits()) as service, pytest.raises(ServiceError, match="503: upstream"):
        service.clusters()
    assert fake.faults.failing == 95


def test_a_creation_is_not_sent_again_when_its_answer_is_lost(fake: FakeRunPod) -> None:
    fake.faults.lost_answers = 1
    with RunPod(pause=Waits()) as service, pytest.raises(UnsureError):
        service.create_pod(pod_body())
    assert len(fake.ledger) == 1


def test_a_place_that_is_not_to_be_had_is_no_capacity(fake: FakeRunPod) -> None:
    fake.faults.no_capacity = {(1, 1)}
    with RunPod() as service, pytest.raises(NoCapacityError, match="no longer any instances"):
        service.create_pod(pod_body())


def test_a_body_that_is_not_of_the_schema_names_its_errors(fake: FakeRunPod) -> None:
    with RunPod() as service, pytest.raises(ServiceError, match="nonsense: not allowed"):
        service.create_pod(pod_body(nonsense=1))


@pytest.mark.parametrize("field", ["status", "cost", "createdAt", "id"])
def test_a_pod_without_a_needed_field_is_named(fake: FakeRunPod, field: str) -> None:
    with RunPod() as service:
        pod = service.create_pod(pod_body())
        fake.faults.missing = field
        with pytest.raises(MultitaskError, match=f"GET /pods/{pod.id}: .*'{field}'"):
            service.pod(pod.id)


def test_a_deletion_twice_is_no_error(fake: FakeRunPod) -> None:
    with RunPod() as service:
        pod = service.create_pod(pod_body())
        service.delete("pod", pod.id)
        service.delete("pod", pod.id)
        assert service.pod(pod.id) is None


def test_the_key_is_in_no_message(fake: FakeRunPod) -> None:
    fake.faults.unauthorized = True
    with RunPod() as service, pytest.raises(ServiceError) as caught:
        service.pods()
    assert KEY not in str(caught.value)


def test_every_shipped_cluster_that_runpod_has_can_be_rented() -> None:
    from multitask.cluster import load_cluster
    from multitask.resources import config_names
    from multitask.runpod.offers import USUAL, gpu_id

    # RunPod lists no A100 with 40 GB; the others must be known.
    rented = [name for name in config_names("clusters") if "40gb" not in name and name != "cpu"]
    ids = {name: gpu_id(load_cluster(name)) for name in rented}
    assert set(USUAL) < ids.keys()
    assert ids["1xh100"] == "NVIDIA H100 80GB HBM3"
