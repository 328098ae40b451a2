"""What the account has of ours: list it, look at it, remove it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from multitask.errors import InputError
from multitask.machine import protocol
from multitask.runpod import api
from multitask.runpod.client import RunPod
from multitask.runpod.control import Control, control_url
from multitask.runpod.machines import Found, Pause, remove
from multitask.runpod.options import Timing
from multitask.runpod.record import PREFIX, Record, RecordFile


@dataclass(frozen=True)
class Billed:
    """Something that exists at RunPod.

    Attributes:
        found: What it is.
        shape: Nodes, GPUs, type.
        state: States of its pods.
        usd_per_hour: What it costs now; a stopped pod's disk is billed although this is 0.
        since: Unix time of its creation.
    """

    found: Found
    shape: str
    state: str
    usd_per_hour: float
    since: float

    def cost(self, now: float) -> float:
        """USD until now at today's rate."""
        return max(0.0, now - self.since) / 3600 * self.usd_per_hour


def billed(service: RunPod, ids: Iterable[str] = ()) -> list[Billed]:
    """Everything of ours that exists: by its name, or because a record knows its id."""
    known = set(ids)
    rows = []
    for cluster in service.clusters():
        if cluster.name.startswith(PREFIX) or cluster.id in known:
            pods = service.cluster_pods(cluster.id)
            rows.append(
                Billed(
                    Found("cluster", cluster.id, cluster.name),
                    f"{cluster.pods} x {cluster.gpus_per_pod} {cluster.gpu}",
                    _states(cluster, pods),
                    sum(pod.cost for pod in pods),
                    cluster.created,
                )
            )
    for pod in service.pods():
        ours = pod.name.startswith(PREFIX) or pod.id in known
        if ours and pod.status != api.GONE and pod.cluster is None:
            shape = f"1 x {pod.gpus} {pod.gpu}"
            found = Found("pod", pod.id, pod.name)
            rows.append(Billed(found, shape, pod.status, pod.cost, pod.created))
    return rows


def _states(cluster: api.ClusterState, pods: list[api.Pod]) -> str:
    counts = Counter(pod.status for pod in pods)
    text = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    missing = cluster.pods - len(pods)
    return f"{text}, {missing} missing".lstrip(", ") if missing > 0 else text


def take_down(service: RunPod, target: str, timing: Timing, pause: Pause) -> list[str]:
    """Remove what a run, a name or an id stands for, and see that it is gone.

    Returns:
        Names of what was removed; none when nothing was there.

    Raises:
        InputError: ``target`` stands for nothing.
        StillBilledError: It could not be confirmed.
    """
    file = RecordFile(Path(target))
    record = file.read() if Path(target).is_dir() else None
    if Path(target).is_dir():
        if record is None:
            raise InputError("nothing was rented for this run", where=target)
        there = [row for row in billed(service, [record.id]) if _is(row, record)]
        remove(service, record, timing, pause)
        file.update(record, state="gone", removed=record.removed or time.time())
        return [record.name] if there else []
    rows = [row for row in billed(service, [target]) if target in (row.found.id, row.found.name)]
    for row in rows:
        remove(service, stand_in(row), timing, pause)
    return [row.found.name for row in rows]


def _is(row: Billed, record: Record) -> bool:
    return row.found.id == record.id or row.found.name == record.name


def stand_in(row: Billed) -> Record:
    """A record of something that only the account knows."""
    return Record(
        run_id=row.found.name.removeprefix(PREFIX),
        name=row.found.name,
        kind=row.found.kind,
        id=row.found.id,
        shape=row.shape,
        nodes=1,
        gpus=0,
        gpu="",
        token="",
        bundle="",
        price=row.usd_per_hour,
        max_cost=0.0,
        created=row.since,
        deadline=time.time(),
        image="",
    )


def rented(run: Path) -> Record:
    """The record of a run's machines.

    Raises:
        InputError: Nothing is rented for it.
    """
    record = RecordFile(run).read()
    if record is None:
        raise InputError(
            "nothing was rented for this run", where=run, fix="`multitask runpod up` rents"
        )
    return record


def job_status(record: Record) -> protocol.Status:
    """What the machine says of its job.

    Raises:
        UnreachableError: It does not answer.
    """
    with Control(control_url(record.primary), record.token) as control:
        return control.status()


def follow_log(
    record: Record, *, follow: bool, write: Callable[[str], object], pause: Pause, poll: float
) -> None:
    """Write the job's log; with ``follow``, until the job has ended.

    Raises:
        UnreachableError: The machine does not answer.
    """
    position = 0
    with Control(control_url(record.primary), record.token) as control:
        while True:
            ended = control.status()["phase"] in protocol.FINAL_PHASES
            text, following = control.logs(position)
            if text:
                write(text)
            if following != position:
                position = following
                continue
            if not follow or ended:
                return
            pause(poll)
