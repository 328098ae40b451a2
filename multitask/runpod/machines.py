"""Rent machines, wait for them, and remove them so that nothing is billed any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from multitask.errors import MultitaskError
from multitask.runpod import api
from multitask.runpod.client import RunPod
from multitask.runpod.control import Control, control_url
from multitask.runpod.options import Timing
from multitask.runpod.problems import ServiceError, UnsureError
from multitask.runpod.record import Record
from multitask.runpod.signals import Signals

Say = Callable[[str], None]
Pause = Callable[[float], object]

_CREATE_TRIES = 3
_PRICE_TOLERANCE = 1.02


class HalfCreatedError(MultitaskError):
    """What was rented did not come up whole."""


class DearerError(MultitaskError):
    """The service bills more than the plan said.

    Attributes:
        usd_per_hour: What it bills, all together.
    """

    def __init__(self, usd_per_hour: float, planned: float) -> None:
        """Say both prices."""
        super().__init__(
            f"RunPod bills ${usd_per_hour:.2f} an hour for this, not ${planned:.2f} as planned",
            fix="give the price of one GPU with --price, and look at the plan again",
        )
        self.usd_per_hour = usd_per_hour


class StoppedBySignalError(MultitaskError):
    """A signal asked to stop."""

    exit_code = 130


class StillBilledError(MultitaskError):
    """A removal could not be confirmed."""

    def __init__(self, record: Record, why: str) -> None:
        """Say loudly what is to be done by hand."""
        super().__init__(
            f"THE REMOVAL OF {record.name} ({record.kind} {record.id or '?'}) COULD NOT BE "
            f"CONFIRMED: IT MAY STILL COST ${record.price:.2f} AN HOUR ({why})",
            fix=f"run `multitask runpod down {record.name}` until it says that it is gone, or "
            f"delete it at {api.CONSOLE}; its own timer ends it at the latest "
            f"{time.strftime('%H:%M', time.localtime(record.deadline))} local time",
        )


@dataclass(frozen=True)
class Found:
    """A pod or a cluster of the account."""

    kind: api.Kind
    id: str
    name: str


def find(service: RunPod, name: str) -> list[Found]:
    """Pods and clusters of a name that are not gone."""
    clusters = [Found("cluster", c.id, c.name) for c in service.clusters() if c.name == name]
    pods = [
        Found("pod", pod.id, pod.name)
        for pod in service.pods()
        if pod.name == name and pod.status != api.GONE and pod.cluster is None
    ]
    return clusters + pods


def rent(
    service: RunPod, record: Record, body: Mapping[str, Any], timing: Timing, pause: Pause
) -> str:
    """Create what ``record`` describes.

    Where an answer is lost, the resource is looked up by its name before it is created again.

    Returns:
        Its id.

    Raises:
        NoCapacityError: It was not placed.
        ServiceError: The service refuses, or fails again and again.
    """
    for attempt in range(1, _CREATE_TRIES + 1):
        try:
            if record.kind == "cluster":
                return service.create_cluster(body).id
            return service.create_pod(body).id
        except UnsureError:
            # What was created may take a moment to be listed.
            for _ in range(_CREATE_TRIES):
                pause(timing.poll)
                there = find(service, record.name)
                if there:
                    return there[0].id
            if attempt == _CREATE_TRIES:
                raise
    raise AssertionError("the last try returns or raises")


def nodes_of(service: RunPod, record: Record) -> list[api.Pod]:
    """The pods of what was rented; none when it is gone."""
    if record.kind == "cluster":
        return service.cluster_pods(record.id)
    pod = service.pod(record.id)
    return [] if pod is None else [pod]


def wait_until_ready(
    service: RunPod, record: Record, signals: Signals, timing: Timing, show: Say
) -> str:
    """Wait until all nodes run and the control server of node 0 answers.

    Returns:
        Id of node 0's pod.

    Raises:
        HalfCreatedError: It does not come up whole.
        DearerError: It costs more than planned.
        StoppedBySignalError: A signal came.
    """
    end = time.monotonic() + timing.ready
    seen = "nothing yet"
    while True:
        if signals.count:
            raise StoppedBySignalError("interrupted while the machines were starting")
        pods = _nodes_or_none(service, record, show)
        dead = [pod for pod in pods if pod.status in api.DEAD]
        if dead:
            raise HalfCreatedError(f"pod {dead[0].id} is {dead[0].status} before it was ready")
        _check_price(pods, record)
        running = [pod for pod in pods if pod.status == api.RUNNING]
        seen = f"{len(running)} of {record.nodes} nodes run"
        show(seen)
        primary = _primary(running, record)
        if len(running) == record.nodes and primary is not None:
            with Control(control_url(primary.id), record.token) as control:
                if control.health():
                    return primary.id
            seen += ", but the control server does not answer"
        if time.monotonic() > end:
            raise HalfCreatedError(f"not ready after {timing.ready / 60:.0f} min: {seen}")
        signals.pause(timing.poll)


def _nodes_or_none(service: RunPod, record: Record, show: Say) -> list[api.Pod]:
    """The pods; none while the service cannot be reached, which the time limit ends."""
    try:
        return nodes_of(service, record)
    except ServiceError as error:
        if 400 <= error.status < 500:
            raise
        show(f"no answer from RunPod ({error.detail}); trying again")
        return []


def _primary(pods: list[api.Pod], record: Record) -> api.Pod | None:
    if record.kind == "pod":
        return pods[0] if pods else None
    return next((pod for pod in pods if pod.rank == 0), None)


def _check_price(pods: list[api.Pod], record: Record) -> None:
    """The rate is compared once every node has one."""
    if len(pods) != record.nodes or any(pod.cost <= 0 for pod in pods):
        return
    actual = sum(pod.cost for pod in pods)
    if actual > record.price * _PRICE_TOLERANCE:
        raise DearerError(actual, record.price)


def remove(service: RunPod, record: Record, timing: Timing, pause: Pause) -> None:
    """Delete what was rented, and everything else of its name, and see that it is gone.

    Raises:
        StillBilledError: That could not be confirmed.
    """
    end = time.monotonic() + timing.gone
    why = "it is still listed"
    while True:
        try:
            # What is known goes first: a listing may fail where a deletion does not.
            left = [Found(record.kind, record.id, record.name)] if record.id else []
            for found in left:
                service.delete(found.kind, found.id)
            for found in find(service, record.name):
                if found not in left:
                    left.append(found)
                    service.delete(found.kind, found.id)
            if all(_is_gone(service, found) for found in left) and not find(service, record.name):
                return
        except MultitaskError as error:
            why = str(error).splitlines()[0]
            if isinstance(error, ServiceError) and error.status in (401, 403):
                raise StillBilledError(record, why) from error
        if time.monotonic() > end:
            raise StillBilledError(record, why)
        pause(timing.poll)


def _is_gone(service: RunPod, found: Found) -> bool:
    if found.kind == "cluster":
        if service.cluster(found.id) is not None:
            return False
        members = [pod for pod in service.pods(members=True) if pod.cluster == found.id]
        return all(pod.status == api.GONE for pod in members)
    pod = service.pod(found.id)
    return pod is None or pod.status == api.GONE
